"""The runs saved in one folder, read from their run.json: how each case's figures went from run to run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cprlib.errors import UsageError
from cprlib.evidence.case import Outcome
from cprlib.report.run_json import RUN_FILE

RUN_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(-\d+)?")  # cprlib.files.utc_name()
MOST_RUNS = 40  # on the page; older ones are counted


@dataclass(frozen=True, slots=True)
class Figures:
    """What one case came to in one run; None for what is not known.

    :param lost: packets, forward and return together. :param interruption: ms, forward and return.
    :param seconds: how long the case took.
    """

    outcome: Outcome
    sent: int | None
    lost: int | None
    interruption: tuple[float | None, float | None]
    seconds: float | None
    unexplained: int | None


@dataclass(frozen=True, slots=True)
class SavedRun:
    """One run.

    :param name: of its folder. :param started: UTC, ``2026-01-31 08:00``.
    :param machine: what its times depend on; runs of different machines are not to be compared.
    :param qemu: version and first digits of the hash of each QEMU that took part.
    :param problem: why its run.json says nothing; empty when it does.
    """

    name: str
    outcome: Outcome | None
    started: str = ""
    policy: str = ""
    machine: str = ""
    qemu: str = ""
    commit: str = ""
    command: str = ""
    cases: Mapping[str, Figures] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """Saved runs, the oldest first.

    :param older: how many more there are in the folder that are not shown.
    """

    folder: Path
    runs: tuple[SavedRun, ...]
    older: int = 0

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Cases of all runs: those that have failed or been inconclusive first, then by name."""
        ids = {name for run in self.runs for name in run.cases}
        bad = {
            name
            for run in self.runs
            for name, case in run.cases.items()
            if case.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)
        }
        return tuple(sorted(ids, key=lambda name: (name not in bad, name)))


def read_history(folder: Path, most: int = MOST_RUNS) -> History:
    """The newest runs in a folder of runs.

    :param most: of so many.
    :raises UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"show the history of {folder}", "there is no such folder", "give the --out of your runs")
    names = sorted(
        path.name for path in folder.iterdir() if RUN_NAME.fullmatch(path.name) and (path / RUN_FILE).is_file()
    )
    shown = names[-most:]
    return History(folder, tuple(_read(folder / name) for name in shown), len(names) - len(shown))


def _read(folder: Path) -> SavedRun:
    try:
        value = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        environment = value["environment"]
        place = " ".join(str(environment.get(key) or "") for key in ("mode", "engine")).strip()
        machine = [
            place,
            str(environment.get("cpu") or "CPU not known"),
            f"{environment.get('cores')} cores",
            f"Linux {environment.get('kernel')}",
        ]
        qemus = [f"{one.get('version') or '?'} {str(one.get('sha256') or '')[:8]}".strip() for one in value["qemu"]]
        return SavedRun(
            folder.name,
            Outcome(value["verdict"]),
            started=str(value.get("started") or "")[:16].replace("T", " "),
            policy=str(value["policy"]["name"]),
            machine=", ".join(filter(None, machine)),
            qemu="; ".join(dict.fromkeys(qemus)),
            commit=str(environment.get("commit") or ""),
            command=str(value.get("command") or ""),
            cases={str(case["id"]): _figures(case) for case in value["cases"]},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return SavedRun(folder.name, None, problem=f"{RUN_FILE} cannot be read: {type(error).__name__}: {error}")


def _figures(case: Mapping[str, Any]) -> Figures:
    loss = [case["loss"]["forward"], case["loss"]["return"]]
    seen = case["interruption_ms"]
    return Figures(
        outcome=Outcome(case["verdict"]),
        sent=case["sent"],
        lost=None if None in loss else sum(loss),
        interruption=(seen["forward"], seen["return"]),
        seconds=case.get("seconds"),
        unexplained=case["unexplained"],
    )
