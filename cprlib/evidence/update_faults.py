"""Faults that were put into updates: their record in the evidence, and the checks that belong to each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cprlib.evidence.records import Check, FaultRecord
from cprlib.update.faults import Fault, Survivor
from cprlib.update.results import FaultResult

CONDITIONS = {  # a field of the fault that is true: what it means
    "return_path": "with a return path",
    "unnoticed": "the source takes the update for complete, and is resumed by cont",
    "refusal": "the target has to refuse",
}
LINES_KEPT = 3  # of the messages of each QEMU


def fault_record(fault: Fault, error: str = "") -> FaultRecord:
    """A fault whose update has no result.

    :param error: why: the update did not end, or an earlier fault ended the guest.
    """
    return FaultRecord(
        fault.name,
        str(fault.phase),
        str(fault.actor),
        str(fault.action),
        str(fault.survivor),
        tuple(words for name, words in CONDITIONS.items() if getattr(fault, name)),
        error=error,
    )


def fault_record_of(result: FaultResult, traffic_after_ms: float | None = None) -> FaultRecord:
    """A fault with the result of its update.

    :param traffic_after_ms: from the fault until the guest answered again; None when it was not measured.
    """
    return replace(
        fault_record(result.fault, result.error),
        reached=result.reached,
        state=result.state_after,
        source_state=result.source_state,
        target_state=result.target_state,
        resumed_after_ms=_rounded(result.back_ms),
        traffic_after_ms=_rounded(traffic_after_ms),
        died_ns=result.acted_ns if result.fault.survivor is Survivor.NEITHER else None,
        target_exit=result.target_exit,
        migration=result.migration,
        refused=result.refused,
        source_messages=tuple(result.source_messages.strip().splitlines()[-LINES_KEPT:]),
        target_messages=tuple(result.target_messages.strip().splitlines()[-LINES_KEPT:]),
    )


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)


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
