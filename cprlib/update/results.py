"""Records of an update: its moments, the state of both QEMUs, and the results with and without a fault."""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.linux.counters import LinkCounters
from cprlib.linux.descriptors import DescriptorTable, Pairing
from cprlib.linux.procfs import VhostWorker
from cprlib.update.faults import Fault
from cprlib.update.mechanism import Mechanism


@dataclass(frozen=True, slots=True)
class Moment:
    """One step.

    :param name: ``TARGET_STARTED``, ``CPR_LISTENING``, ``MIGRATE``, ``STOP``, ``FDS_SENT``, ``FDS_LOADING``,
        ``STATE_LOADING``, ``RESUME``, ``COMPLETED`` or ``SOURCE_GONE``.
    :param time_ns: CLOCK_REALTIME.
    :param who: ``source``, ``target`` or ``harness``.
    :param evidence: source of the time.
    """

    name: str
    time_ns: int
    who: str
    evidence: str


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One QEMU in /proc at one moment.

    :param anonymous_kib: private memory, without guest RAM, which is a memfd; None when it was not read.
    :param waited_ms: time for the workers of released vhost devices to end.
    """

    table: DescriptorTable
    workers: tuple[VhostWorker, ...]
    anonymous_kib: int | None = None
    waited_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """Result of a live update that succeeded.

    :param source_before: the source before the target was started.
    :param source_after, target_after: both QEMUs side by side, the guest running in the target.
    :param pairings: tap and vhost descriptors of both, paired by open file.
    :param downtime_ms: QEMU's own figure (query-migrate on the source), None when it gave none.
    :param source_exit: exit status of the source, negative for a signal.
    :param run_states: each change of a QEMU's run state during the update, in order: ``target running``; None when the
        target has no trace log.
    :param source_retired: counters of the source's tap at its end, None when the target uses the same tap.
    """

    mechanism: Mechanism
    moments: tuple[Moment, ...]
    source_before: ProcessView
    source_after: ProcessView
    target_after: ProcessView
    pairings: tuple[Pairing, ...]
    downtime_ms: float | None
    source_exit: int
    source_messages: str
    target_messages: str
    source_retired: LinkCounters | None
    run_states: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class FaultResult:
    """Result of an update with a fault.

    :param reached: False when the update ended before the fault's phase; :attr:`why` has the reason.
    :param acted_ns: time of the fault (CLOCK_REALTIME).
    :param migration: status by query-migrate at the end; ``gone`` when the source has ended.
    :param error: QEMU's message for the failure.
    :param refused: QEMU's message when it refused management's command; empty when it did not.
    :param back_ms: from the fault to the source's RESUME; None when it did not resume, or had not been running.
    :param target_exit: exit status of a target that ended by itself; None when it was killed, or lives.
    :param source_state: the source's run state at the end of the update, before ``quit``; ``gone``.
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
    source_messages: str
    target_messages: str
