"""The records of a case and their words, as they stand in case.json and run.json; those of traffic are in
:mod:`cprlib.traffic.figures` and :mod:`cprlib.traffic.hops`, that of a QEMU in :mod:`cprlib.qemu.facts`.

A value that is not known is None, never 0: the judge takes what is absent for inconclusive, not for good.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from cprlib.traffic.figures import InterruptionPerDirection, PerDirection


class Outcome(enum.StrEnum):
    """What came of one check, one case or a whole run."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    SKIP = "skip"


class Role(enum.StrEnum):
    """What a case is for, and so what is expected of it."""

    UPDATE = "update"  # a live update that has to satisfy the policy
    NEGATIVE_CONTROL = "negative-control"  # an update that is known to lose packets: the instrument has to see that
    CONTROL_RUN = "control-run"  # no update: a loss is the instrument's or the machine's
    CHECKS = "checks"  # no measured traffic: its checks are all it has


class Who(enum.StrEnum):
    """Whose event it is."""

    SOURCE = "source"
    TARGET = "target"
    HARNESS = "harness"
    GUEST = "guest"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the case was run with.

    :param rate: packets per second that the session-sender sends.
    :param size: bytes of UDP payload in each test packet.
    :param duration_s: seconds of traffic.
    :param ip_version: 4 or 6.
    :param tap_queue_length: packets, per queue.
    :param more: further Avocado parameters, for display only.
    """

    queues: int | None = None
    vhost: bool | None = None
    rate: float | None = None
    size: int | None = None
    duration_s: float | None = None
    ip_version: int | None = None
    machine: str = ""
    tap_queue_length: int | None = None
    more: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One property that a case looked at.

    :param name: the property, in kebab-case: ``descriptors-same-file``. Names known to policies are listed in
        :data:`cprlib.verdict.policy.IDENTITY_CHECKS` and its neighbours.
    """

    name: str
    outcome: Outcome
    expected: str = ""
    observed: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """A moment of the update: ``STOP``, ``FDS_SENT``, ``RESUME``, ``MIGRATE``, ..."""

    name: str
    time_ns: int
    who: Who
    note: str = ""


@dataclass(frozen=True, slots=True)
class DescriptorRow:
    """One descriptor of the source beside the one of the target that it is paired with.

    :param kind: ``tap``, ``vhost`` or what else it is.
    :param name: the netdev or CPR name: ``hostnet0``.
    :param source_fd, target_fd: numbers; None when that side has none.
    :param same_file: what kcmp(2) KCMP_FILE says; None when it was not asked.
    :param iff: interface of a tap, from fdinfo.
    :param source_flags, target_flags: open flags, from fdinfo, e.g. ``O_RDWR|O_NONBLOCK``.
    """

    kind: str
    name: str
    source_fd: int | None = None
    target_fd: int | None = None
    same_file: bool | None = None
    iff: str = ""
    source_flags: str = ""
    target_flags: str = ""
    inode: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class DescriptorCount:
    """Descriptors of the netdevs: those that are one open file on both sides, and those that are not."""

    paired: int | None = None
    unpaired: int | None = None


@dataclass(frozen=True, slots=True)
class GuestFact:
    """One thing the guest sees, before and after: features, offloads, queue pairs, filters, link state."""

    name: str
    before: str | None
    after: str | None
    must_match: bool = True


@dataclass(frozen=True, slots=True)
class FaultSeen:
    """A fault that was put into an update, and what came of it.

    :param name: in kebab-case; the names of its checks begin with it.
    :param phase, actor, action: words of :mod:`cprlib.update.faults`.
    :param survivor: who has to run the guest afterwards: ``source``, ``target``, ``source or target``, ``nobody``.
    :param conditions: what else was different: ``with a return path``.
    :param reached: False when the update ended before the fault could be put in; None when it is not known.
    :param state: run state of the survivor's VM; :param source_state, target_state: of both, at the end of the update.
    :param ran_ms: from the fault until the source ran the guest again; None where it did not stop, or did not go on.
    :param flowing_ms: from the fault until packets went there and back again.
    :param died_ns: when the guest was lost, where nobody could survive.
    :param target_exit: exit status of a target that ended by itself, negative for a signal.
    :param migration: what query-migrate said; :param error: with which words.
    :param refused: words with which the source refused what management asked for; empty when it did as it was told.
    :param source_said, target_said: last lines of both QEMUs.
    """

    name: str
    phase: str
    actor: str
    action: str
    survivor: str
    conditions: tuple[str, ...] = ()
    reached: bool | None = None
    state: str = ""
    source_state: str = ""
    target_state: str = ""
    ran_ms: float | None = None
    flowing_ms: float | None = None
    died_ns: int | None = None
    target_exit: int | None = None
    migration: str = ""
    error: str = ""
    refused: str = ""
    source_said: tuple[str, ...] = ()
    target_said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateFigures:
    """One of several updates of a case: what of the stream was sent nearer to it than to any other update.

    :param number: from 1.
    :param sent: packets; :param loss: of these.
    :param duplicates, reordered: among these, as RFC 5560 and RFC 4737 count them.
    :param stop_to_resume_ms: from STOP of the source to RESUME of the target, by QEMU's own stamps.
    :param traffic_after_ms: from RESUME until an answer had come back on every flow.
    :param descriptors: of the new QEMU while the guest ran in it, by kind.
    :param anonymous_kib: memory of the new QEMU's own, without guest RAM (RssAnon in /proc/PID/status).
    :param note: which QEMU followed which, where they differ.
    """

    number: int
    sent: int | None = None
    loss: PerDirection = field(default_factory=PerDirection)
    interruption: InterruptionPerDirection = field(default_factory=InterruptionPerDirection)
    qemu_downtime_ms: float | None = None
    fds: DescriptorCount = field(default_factory=DescriptorCount)
    descriptors: Mapping[str, int] = field(default_factory=dict)
    anonymous_kib: int | None = None
    note: str = ""
    duplicates: PerDirection = field(default_factory=PerDirection)
    reordered: PerDirection = field(default_factory=PerDirection)
    stop_to_resume_ms: float | None = None
    traffic_after_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What the tap queue can hold while nobody reads it.

    :param queue_length: packets kept (tap txqueuelen, of the one queue that the flow uses).
    :param rate: packets per second that arrive at it.
    """

    queue_length: int
    rate: float

    @property
    def longest_pause_ms(self) -> float | None:
        """The longest pause that loses nothing: queue length / rate."""
        return self.queue_length / self.rate * 1000 if self.rate > 0 else None


@dataclass(frozen=True, slots=True)
class InstrumentHealth:
    """How far the measuring can be trusted.

    :param own_drops: packets that the capture itself lost (PACKET_STATISTICS, SO_RXQ_OVFL).
    :param reflector_drops: packets that the reflector's socket lost for want of room.
    :param reflector_alive: the reflector answered at the end and handed out its log.
    :param pacing_p99_us: 99th percentile of the distance between planned and actual sending, in microseconds.
    :param control_run_sent, control_run_lost: packets of the run without update, in the same session.
    :param control_run_interruption_ms: longest gap seen without any update: the floor of what can be claimed.
    :param clock_offset_us, clock_error_us: guest clock minus host clock, and how well that is known.
    :param missing_counters: counters that the ledger wanted and that were not there.
    """

    own_drops: int | None = None
    reflector_drops: int | None = None
    reflector_alive: bool | None = None
    pacing_p99_us: float | None = None
    control_run_sent: int | None = None
    control_run_lost: int | None = None
    control_run_interruption_ms: float | None = None
    clock_offset_us: float | None = None
    clock_error_us: float | None = None
    missing_counters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """A further stream beside the main one: started in the guest, TCP, another flow.

    :param kind: ``stamp``, ``udp`` or ``tcp``.
    :param sent, lost, duplicates, reordered: packets (for TCP: bytes sent; lost is bytes that differ or are missing).
    """

    name: str
    kind: str
    sent: int | None = None
    lost: int | None = None
    duplicates: int | None = None
    reordered: int | None = None
    retransmissions: int | None = None
    longest_stall_ms: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class QueueShare:
    """Packets that one queue pair of the guest's NIC carried during the measured run, of all streams.

    :param received: into the guest, :param sent: out of it, by the guest's own count.
    """

    queue: int
    received: int | None = None
    sent: int | None = None
