"""Avocado's results.json: status and reason of each test, also of tests that left no evidence."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

_PATTERNS = ("results.json", "*/results.json", "*/*/results.json")
_NO_REASON = ("", "<unknown>", "None")


@dataclass(frozen=True, slots=True)
class AvocadoTest:
    """One test of an Avocado job.

    :param id: with Avocado's number: ``2-tests/functional/test_update.py:Test.test_x``.
    :param name: without the number, with the varianter's suffix.
    :param status: PASS, FAIL, ERROR, SKIP, CANCEL, WARN or INTERRUPTED.
    :param reason: of a status other than PASS; empty when Avocado has none.
    """

    id: str
    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0

    def is_named(self, name: str) -> bool:
        """True when ``name`` is this test's id or name; the folders of its file are ignored."""
        return bool(name) and (
            name in (self.id, self.name) or _base_name(name) in (_base_name(self.id), _base_name(self.name))
        )


def _base_name(name: str) -> str:
    """A test's name without Avocado's number and the folders of its file."""
    path, colon, rest = re.sub(r"^\d+-", "", name).partition(":")
    return f"{path.rpartition('/')[2]}{colon}{rest}"


@dataclass(frozen=True, slots=True)
class JobResults:
    """The tests of all Avocado jobs in a results folder.

    :param problems: why tests are missing: an interrupted job, a file that cannot be read.
    """

    tests: tuple[AvocadoTest, ...] = ()
    problems: tuple[str, ...] = ()


def read_jobs(folder: Path) -> JobResults:
    """Read the results of the Avocado jobs in a results folder. Never raises."""
    tests: list[AvocadoTest] = []
    problems = [
        f"Avocado's job {job.name} was interrupted: it left no results"
        for job in sorted(folder.glob("*/job-*"))
        if job.is_dir() and not (job / "results.json").exists()
    ]
    for path in {path.resolve(): path for pattern in _PATTERNS for path in sorted(folder.glob(pattern))}.values():
        try:
            found, planned = _read_job(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"Avocado's results {path} cannot be read: {type(error).__name__}: {error}")
            continue
        tests += found
        if planned > len(found):
            problems.append(f"{planned - len(found)} of {planned} tests never ran: the job was interrupted")
    return JobResults(tuple(tests), tuple(problems))


def _read_job(path: Path) -> tuple[list[AvocadoTest], int]:
    """The tests of a job, and the number of tests it planned."""
    value = json.loads(path.read_text(encoding="utf-8"))
    tests = [
        AvocadoTest(
            id=str(test["id"]),
            name=str(test["name"]),
            status=str(test["status"]),
            reason="" if str(test.get("fail_reason")) in _NO_REASON else str(test["fail_reason"]),
            seconds=float(test.get("time_elapsed") or 0.0),
        )
        for test in value["tests"]
    ]
    return tests, int(value.get("total", len(tests)))
