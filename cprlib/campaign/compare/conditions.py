"""The conditions of saved results: only guests with equal parameters, on equal machines, are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cprlib.campaign.compare.guest import GuestParameters, GuestResult
from cprlib.codec import decode
from cprlib.errors import UsageError
from cprlib.report.environment import Environment

DESCRIBED_BY = ("run.json", "compare.json")  # files of a results folder with its environment
PARENTS = 3  # folders above the given one that are searched for them
DECIDING = ("architecture", "cpu", "cores", "kernel", "mode", "engine", "lab_kernel", "accelerator")
"""Members of an environment that must be equal; of ``kernel`` the first two numbers."""
NAMES = {"cpu": "CPU", "lab_kernel": "lab's kernel", "cores": "number of cores"}


def find_description(results: Path) -> Path | None:
    """The run.json or compare.json of a results folder, in it, in a folder above it, or in one of its folders."""
    top = results.resolve()
    found = [
        place / name for place in (top, *top.parents[:PARENTS]) for name in DESCRIBED_BY if (place / name).is_file()
    ]
    found += sorted(path for name in DESCRIBED_BY for path in top.glob(f"*/{name}") if path.parent.name != "latest")
    return found[0] if found else None


def read_environment(results: Path) -> Environment:
    """The machine of a results folder, by :func:`find_description`.

    :raises UsageError: it is not described, or the description cannot be read.
    """
    found = find_description(results)
    if found is None:
        happened = f"no {' or '.join(DESCRIBED_BY)} in it describes its machine"
        raise UsageError(f"read {results}", happened, "give the folder of a run, e.g. results/latest")
    try:
        value = json.loads(found.read_text(encoding="utf-8"))
        return decode(Environment, value["environment"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"read {found}", str(error)) from error


def machine_differences(before: Environment, now: Environment) -> tuple[str, ...]:
    """How two machines differ in :data:`DECIDING` members. A value that only one of them has is a difference.

    :param before: of A, e.g. of a baseline. :param now: of B.
    """
    found = []
    for name in DECIDING:
        one, other = (_deciding(environment, name) for environment in (before, now))
        if one != other:
            found.append(f"{NAMES.get(name, name)}: {one or 'unknown'} before, {other or 'unknown'} now")
    return tuple(found)


def _deciding(environment: Environment, name: str) -> str:
    value = getattr(environment, name)
    if name == "kernel":
        numbers = re.match(r"\d+\.\d+", value)
        return numbers[0] if numbers else str(value)
    if name == "lab_kernel":
        return str(value)[:12]
    return "" if value is None else str(value)


def other_parameters(
    label: str, parameters: Mapping[str, GuestParameters], guests: Mapping[str, Sequence[GuestResult]]
) -> dict[str, str]:
    """Why cases are not compared: their guests have other parameters.

    A skipped guest has none that count: what it was skipped for is compared.

    :param label: of A, for people.
    :param parameters: of A's guests, by case. :param guests: B's.
    """
    problems = {}
    for case, expected in parameters.items():
        found = [guest.parameters for guest in guests.get(case, ()) if not guest.skipped]
        other = [
            f"{name}={value}"
            for name, value in expected.items()
            if value is not None and any(own.get(name) != value for own in found)
        ]
        if other:
            problems[case] = f"{case}: {label} has {', '.join(other)}"
    return problems
