"""The conditions of saved results: only guests with equal parameters, on equal machines, are compared."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cprlib.campaign.compare.guest import GIVEN_PARAMETERS, GuestParameters, GuestResult
from cprlib.campaign.store import REQUEST_FILE
from cprlib.codec import decode
from cprlib.errors import UsageError
from cprlib.report.environment import Environment

DESCRIBED_BY = ("run.json", "compare.json")  # files of a results folder with its environment
PARENTS = 3  # folders above the given one that are searched for them
DECIDING = ("architecture", "cpu", "cores", "kernel", "mode", "engine", "lab_kernel", "accelerator")
"""Members of an environment that must be known and equal; of ``kernel`` the first two numbers."""
EMPTY_SOMEWHERE = ("engine", "lab_kernel")  # natively, or in engine kvm; equal there
NAMES = {"cpu": "CPU", "lab_kernel": "lab's kernel", "cores": "number of cores"}


def find_descriptions(results: Path) -> tuple[Path, ...]:
    """The run.json or compare.json of a results folder, in it or in a folder above it; else those of its folders."""
    top = results.resolve()
    for place in (top, *top.parents[:PARENTS]):
        for name in DESCRIBED_BY:
            if (place / name).is_file():
                return (place / name,)
    return tuple(
        sorted(path for name in DESCRIBED_BY for path in top.glob(f"*/{name}") if path.parent.name != "latest")
    )


def find_session(results: Path) -> Path | None:
    """The folder of the session that results are a part of; None where they are of a single run."""
    top = results.resolve()
    return next((place for place in (top, *top.parents[:PARENTS]) if (place / REQUEST_FILE).is_file()), None)


def read_environments(results: Path) -> tuple[Environment, ...]:
    """The machines of a results folder, or of a folder of such, by :func:`find_descriptions`.

    :raises UsageError: none is described, or a description cannot be read.
    """
    found = find_descriptions(results)
    if not found:
        happened = f"no {' or '.join(DESCRIBED_BY)} in it describes its machine"
        raise UsageError(f"read {results}", happened, "give the folder of a run, e.g. results/latest")
    machines = []
    for path in found:
        try:
            machines.append(decode(Environment, json.loads(path.read_text(encoding="utf-8"))["environment"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"read {path}", str(error), "write it again with cprlib report") from error
    return tuple(machines)


def all_differences(machines: Sequence[Environment]) -> tuple[str, ...]:
    """How the machines differ, each from the one before it; see :func:`machine_differences`."""
    found = (text for one, other in itertools.pairwise(machines) for text in machine_differences(one, other))
    return tuple(dict.fromkeys(found))


def machine_differences(before: Environment, now: Environment) -> tuple[str, ...]:
    """How two machines differ in :data:`DECIDING` members. A value that one of them lacks, or both, is a difference.

    :param before: of A, e.g. of a baseline. :param now: of B.
    """
    found, unknown = [], []
    for name in DECIDING:
        one, other = (_deciding(environment, name) for environment in (before, now))
        if one != other:
            found.append(f"{NAMES.get(name, name)}: {one or 'unknown'} before, {other or 'unknown'} now")
        elif not one and name not in EMPTY_SOMEWHERE:
            unknown.append(NAMES.get(name, name))
    return (*found, *([f"{', '.join(unknown)}: unknown before and now"] if unknown else []))


def _deciding(environment: Environment, name: str) -> str:
    value = getattr(environment, name)
    if name == "kernel":
        numbers = re.match(r"\d+\.\d+", value)
        return numbers[0] if numbers else str(value)
    if name == "lab_kernel":
        return str(value)[:12]
    return "" if value is None else str(value)


def parameters_of(guests: Sequence[GuestResult]) -> tuple[GuestParameters, ...]:
    """The different parameters of guests. A skipped guest does not count: it ran with none."""
    found: list[GuestParameters] = []
    for guest in guests:
        if not guest.skipped and guest.parameters not in found:
            found.append(guest.parameters)
    return tuple(found)


def mixed_parameters(parameters: Sequence[GuestParameters]) -> str:
    """The parameters that differ between guests of one side: ``rate=500 and rate=1000``; empty when none does."""
    names = sorted({name for one in parameters for name in one})
    differing = [(name, {str(one.get(name, "not set")) for one in parameters}) for name in names]
    texts = [
        " and ".join(f"{name}={value}" for value in sorted(values)) for name, values in differing if len(values) > 1
    ]
    return "; ".join(texts)


def other_parameters(
    label: str, parameters: Mapping[str, Sequence[GuestParameters]], guests: Mapping[str, Sequence[GuestResult]]
) -> dict[str, str]:
    """Why cases are not compared: guests have other parameters, those of A among themselves, or those of B.

    :param label: of A, for people.
    :param parameters: the different ones of A's guests, by case. :param guests: B's.
    """
    problems = {}
    for case, of_a in parameters.items():
        of_b = parameters_of(guests.get(case, ()))
        if mixed := mixed_parameters(of_a):
            problems[case] = f"{case}: {label} has guests with {mixed}"
        elif of_a and (other := [text for name in _names(*of_a, *of_b) if (text := _other(name, of_a[0], of_b))]):
            problems[case] = f"{case}: {label} has {', '.join(other)}"
    return problems


def missing_cases(guests_a: Mapping[str, Sequence[GuestResult]], guests_b: Mapping[str, object]) -> list[str]:
    """Cases with a valid guest of A and none of B: they are not compared."""
    valid = [case for case, guests in guests_a.items() if any(guest.valid for guest in guests)]
    return [f"B has no guest of {case}" for case in valid if case not in guests_b]


def _names(*parameters: GuestParameters) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in parameters for name in one))


def _other(name: str, expected: GuestParameters, found: Sequence[GuestParameters]) -> str:
    """``NAME=VALUE`` of A when a guest of B has another value; empty when all are equal, or A's is unknown."""
    value = expected.get(name)
    known = value is not None or GIVEN_PARAMETERS.fullmatch(name)
    if not known or all(own.get(name) == value for own in found):
        return ""
    return f"{name}={'not set' if value is None else value}"
