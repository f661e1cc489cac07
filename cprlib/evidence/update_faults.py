"""Faults put into updates as evidence: rows of a case's ``faults.json``, and checks where there is no row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cprlib.errors import InstrumentError, UsageError
from cprlib.evidence.case import Check, FaultSeen, Outcome
from cprlib.update.faults import faults_named

FAULTS_FILE = "faults.json"
CONDITIONS = {  # a column of the row that is true: what it means
    "return_path": "with a return path",
    "unnoticed": "the source takes the update for complete, and is told to go on",
    "downgrade": "vhost cannot be taken back",
    "refusal": "the target has to refuse",
}
_DIED = re.compile(r"dead since (\d+) ns")
_RAN = re.compile(r"after (\d+) ms")
# checks of a fault that has no row: put in under traffic, an update that never came to an end, one that was not begun
_WITHOUT_ROW = ("-source-runs", "-ends", "-survived")


def read_faults(folder: Path, checks: Sequence[Check]) -> tuple[FaultSeen, ...]:
    """The faults of a case, in order; none where the case is about something else.

    :param folder: of the case.
    :param checks: of the case: some tell what a row does not.
    :raises InstrumentError: the file is broken.
    """
    path = folder / FAULTS_FILE
    rows: list[Mapping[str, Any]] = []
    if path.exists():
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            seen = [_seen(row, checks) for row in rows]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InstrumentError(f"read {path}", f"{type(error).__name__}: {error}") from error
    else:
        seen = []
    return (*seen, *_without_row({fault.name for fault in seen}, checks))


def checks_of(fault: str, names: Iterable[str], checks: Sequence[Check]) -> tuple[Check, ...]:
    """The checks of a fault: those whose names begin with its own, and with no longer name of another fault.

    :param names: of all faults of the case.
    """
    longer = [f"{name}-" for name in names if name.startswith(f"{fault}-")]
    return tuple(
        check
        for check in checks
        if check.name.startswith(f"{fault}-") and not any(check.name.startswith(name) for name in longer)
    )


def _seen(row: Mapping[str, Any], checks: Sequence[Check]) -> FaultSeen:
    name = str(row["name"])
    return FaultSeen(
        name=name,
        phase=str(row["phase"]),
        actor=str(row["actor"]),
        action=str(row["action"]),
        survivor=str(row["survivor"]),
        conditions=tuple(words for column, words in CONDITIONS.items() if str(row.get(column)) == "True"),
        reached=bool(row["reached"]) if row.get("reached") is not None else None,
        state=str(row.get("state") or ""),
        source_state=str(row.get("source_state") or ""),
        target_state=str(row.get("target_state") or ""),
        ran_ms=_number(row.get("back_ms")),
        flowing_ms=_number(row.get("flowing_ms")),
        died_ns=_died(name, row, checks),
        target_exit=int(row["target_exit"]) if row.get("target_exit") is not None else None,
        migration=str(row.get("migration") or ""),
        error=str(row.get("error") or ""),
        refused=str(row.get("refused") or ""),
        source_said=_lines(row.get("source_said")),
        target_said=_lines(row.get("target_said")),
    )


def _number(value: object) -> float | None:
    return None if value is None else round(float(str(value)), 3)


def _lines(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _died(name: str, row: Mapping[str, Any], checks: Sequence[Check]) -> int | None:
    """When the guest was lost: as the row says, else as the check says that nobody runs it."""
    if row["survivor"] != "nobody":
        return None
    if row.get("died_ns") is not None:
        return int(row["died_ns"])
    for check in checks:
        found = _DIED.search(check.observed) if check.name == f"{name}-nobody-runs-it" else None
        if found:
            return int(found[1])
    return None


def _without_row(known: set[str], checks: Sequence[Check]) -> Iterable[FaultSeen]:
    """Faults of which there are checks alone."""
    for check in checks:
        ending = next((text for text in _WITHOUT_ROW if check.name.endswith(text)), None)
        name = check.name.removesuffix(ending) if ending else ""
        if not name or name in known:
            continue
        try:
            (fault,) = faults_named(name)
        except UsageError:
            continue  # a check of something else
        known.add(name)
        conditions = tuple(words for column, words in CONDITIONS.items() if getattr(fault, column, False))
        ran = _RAN.search(check.observed) if ending == "-source-runs" else None
        yield FaultSeen(
            name,
            str(fault.phase),
            str(fault.actor),
            str(fault.action),
            str(fault.survivor),
            conditions,
            ran_ms=float(ran[1]) if ran else None,
            error=check.message or ("" if check.outcome == Outcome.PASS else check.observed),
        )
