"""How long each case took in the latest runs of a folder."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from cprlib.codec import BadValue, load_json
from cprlib.report.run_json import RUN_FILE

RUNS = 10  # read at most


@dataclass(frozen=True, slots=True)
class _Case:
    id: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    cases: tuple[_Case, ...]


def case_seconds(folder: Path) -> dict[str, float]:
    """Seconds by case, of the newest run that has it.

    :param folder: of all runs; need not exist.
    """
    seconds: dict[str, float] = {}
    runs = sorted((path for path in folder.glob(f"*/{RUN_FILE}") if not path.parent.is_symlink()), reverse=True)
    for path in runs[:RUNS]:
        with contextlib.suppress(OSError, BadValue):
            for case in load_json(_Run, path.read_bytes()).cases:
                if case.seconds:
                    seconds.setdefault(case.id, case.seconds)
    return seconds
