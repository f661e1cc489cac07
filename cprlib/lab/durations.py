"""How long each test took, remembered from run to run: in a lab the longest begins first, and all end together."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from cprlib.errors import CprlibError
from cprlib.files import cache_folder, write_json

FILE = "durations.json"
RESULTS = "results.json"  # of a job of Avocado
TEST = re.compile(r"test_\w+\.py:\w+\.test_\w+")  # the end of a reference
Test = TypeVar("Test")


def test_name(text: str) -> str:
    """The part of a reference that names the test; empty without one."""
    found = TEST.search(text)
    return found[0] if found else ""


def known_durations() -> Mapping[str, float]:
    """Seconds that each test took the last time, by :func:`test_name`."""
    try:
        value = json.loads((cache_folder() / FILE).read_bytes())
        return {str(name): float(seconds) for name, seconds in value.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def longest_first(tests: Sequence[Test], references: Sequence[str]) -> list[Test]:
    """Tests in the order in which they should begin; those that are not known come first.

    :param references: of the tests, in the same order.
    """
    known = known_durations()
    seconds = [known.get(test_name(reference), float("inf")) for reference in references]
    return [tests[index] for index in sorted(range(len(tests)), key=lambda index: -seconds[index])]


def remember_durations(jobs: Iterable[Path]) -> None:
    """Remember how long the tests of a run took.

    :param jobs: folders of Avocado's jobs.
    """
    seconds = dict(known_durations())
    for job in jobs:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            tests = json.loads((job / RESULTS).read_bytes())["tests"]
            seconds |= {test_name(test["name"]): round(test["time_elapsed"], 1) for test in tests}
    with contextlib.suppress(CprlibError, OSError):  # a cache that cannot be written
        write_json(cache_folder() / FILE, seconds)
