"""Whether two machines are alike enough that their durations may be compared."""

from __future__ import annotations

import re

from cprlib.report.environment import Environment

DECIDING = ("architecture", "cpu", "cores", "kernel", "mode", "engine", "lab_kernel", "accelerator")
"""Of a machine's description; of ``kernel`` its first two numbers. Memory, Python and distribution do not decide."""
NAMES = {"cpu": "CPU", "lab_kernel": "lab's kernel", "cores": "number of cores"}


def unlike(before: Environment, now: Environment) -> tuple[str, ...]:
    """How the two differ in what decides; empty when they are alike. What is not known of one is a difference.

    :param before: of a baseline, :param now: of a run.
    """
    found = []
    for name in DECIDING:
        one, other = (_value(environment, name) for environment in (before, now))
        if one != other:
            found.append(f"{NAMES.get(name, name)}: {one or 'not known'} before, {other or 'not known'} now")
    return tuple(found)


def _value(environment: Environment, name: str) -> str:
    value = getattr(environment, name)
    if name == "kernel":
        numbers = re.match(r"\d+\.\d+", value)
        return numbers[0] if numbers else str(value)
    if name == "lab_kernel":
        return str(value)[:12]
    return "" if value is None else str(value)
