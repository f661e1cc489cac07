"""What was seen of one fault."""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.update.faults import Fault
from cprlib.update.live_update import ProcessView


@dataclass(frozen=True, slots=True)
class FaultResult:
    """What was seen of one fault.

    :param reached: False when the update ended before it came to the phase; :attr:`why` says how.
    :param acted_ns: when the fault was put in (CLOCK_REALTIME).
    :param migration: what query-migrate said at the end; ``gone`` when the source was.
    :param error: QEMU's own words for the failure.
    :param refused: its own words where it refused what management asked for; empty when it did as it was told.
    :param back_ms: from the fault to the source's RESUME; None when it did not resume, or had not been running.
    :param target_exit: how the target ended by itself; None when it had to be killed, or lives.
    :param source_state: the source's run state at the end of the update, before it was told to quit; ``gone``.
    :param target_state: the target's; ``gone``, or ``none`` while it serves no QMP.
    """

    fault: Fault
    reached: bool
    why: str
    acted_ns: int
    migration: str
    error: str
    refused: str
    state_before: str
    state_after: str
    back_ms: float | None
    before: ProcessView
    after: ProcessView | None
    target_exit: int | None
    source_state: str
    target_state: str
    source_said: str
    target_said: str
