"""Avocado's own results.json, so that a test that ended without evidence is shown with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import InstrumentError

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


def read_job_results(paths: Iterable[Path]) -> tuple[AvocadoTest, ...]:
    """The tests of Avocado jobs.

    :raises InstrumentError: a file that is missing, cut off or no results of Avocado.
    """
    return tuple(test for path in paths for test in _read(path))


def _read(path: Path) -> list[AvocadoTest]:
    try:
        tests = json.loads(path.read_text(encoding="utf-8"))["tests"]
        return [
            AvocadoTest(
                id=str(test["id"]),
                name=str(test["name"]),
                status=str(test["status"]),
                reason="" if str(test.get("fail_reason")) in NO_REASON else str(test["fail_reason"]),
                seconds=float(test.get("time_elapsed") or 0.0),
            )
            for test in tests
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InstrumentError(f"read Avocado's results {path}", f"{type(error).__name__}: {error}") from error
