"""Avocado's own results.json, so that a test that ended without evidence is shown with its reason."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

PLACES = ("results.json", "*/results.json", "*/*/results.json")
NO_REASON = ("", "<unknown>", "None")


@dataclass(frozen=True, slots=True)
class AvocadoTest:
    """One test of an Avocado job.

    :param id: with Avocado's number in front: ``2-tests/functional/test_update.py:Test.test_x``.
    :param name: without it, with the variant behind.
    :param status: PASS, FAIL, ERROR, SKIP, CANCEL, WARN or INTERRUPTED.
    """

    id: str
    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0

    def is_named(self, name: str) -> bool:
        """True when ``name`` is this test's id or name, whatever folder the tests were found in."""
        return bool(name) and (name in (self.id, self.name) or _bare(name) in (_bare(self.id), _bare(self.name)))


def _bare(name: str) -> str:
    """A test's name without Avocado's number and without the folders of its file."""
    path, colon, rest = re.sub(r"^\d+-", "", name).partition(":")
    return f"{path.rpartition('/')[2]}{colon}{rest}"


def find_job_results(folder: Path) -> tuple[Path, ...]:
    """The results.json files of Avocado jobs in a results folder, each once."""
    found = {path.resolve(): path for place in PLACES for path in sorted(folder.glob(place))}
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class JobResults:
    """What Avocado says of its jobs.

    :param problems: why the tests are not all there: a job that was cut off, a file that cannot be read.
    """

    tests: tuple[AvocadoTest, ...] = ()
    problems: tuple[str, ...] = ()


def read_jobs(folder: Path) -> JobResults:
    """The tests of the Avocado jobs in a results folder, and what is missing of them. Never raises."""
    tests: list[AvocadoTest] = []
    problems = [
        f"Avocado's job {job.name} left no results: it was cut off"
        for job in sorted(folder.glob("*/job-*"))
        if job.is_dir() and not (job / "results.json").exists()
    ]
    for path in find_job_results(folder):
        try:
            found, planned = _read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"Avocado's results {path} cannot be read: {type(error).__name__}: {error}")
            continue
        tests += found
        if planned > len(found):
            problems.append(f"{planned - len(found)} of {planned} tests never ran: the job was interrupted")
    return JobResults(tuple(tests), tuple(problems))


def _read(path: Path) -> tuple[list[AvocadoTest], int]:
    """Tests of a job, and how many there should have been."""
    value = json.loads(path.read_text(encoding="utf-8"))
    tests = [
        AvocadoTest(
            id=str(test["id"]),
            name=str(test["name"]),
            status=str(test["status"]),
            reason="" if str(test.get("fail_reason")) in NO_REASON else str(test["fail_reason"]),
            seconds=float(test.get("time_elapsed") or 0.0),
        )
        for test in value["tests"]
    ]
    return tests, int(value.get("total", len(tests)))
