"""The parts of a case's evidence: traffic figures, events, ledger, descriptors, instrument.

A value that is not known is None, never 0: the judge takes what is absent for inconclusive, not for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cprlib.verdict.terms import Cause, Direction, Outcome, Who


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the case was run with.

    :param rate: packets per second that the session-sender sends.
    :param size: octets of UDP payload in each test packet.
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
class PerDirection:
    """Packets counted in each direction; None where it is not known.

    One-way loss is RFC 7680's, duplicates RFC 5560's, reordered RFC 4737's.
    """

    forward: int | None = None
    return_: int | None = None

    @property
    def total(self) -> int | None:
        """The sum, None unless both are known."""
        return None if self.forward is None or self.return_ is None else self.forward + self.return_


@dataclass(frozen=True, slots=True)
class Interruption:
    """Service interruption in one direction, by both methods of RFC 6201, in milliseconds.

    :param low_ms, high_ms: time-stamp based: it lies between these two.
    :param frame_loss_ms: frame-loss based: packets lost / rate.
    :param resolution_ms: neither figure is finer than this (one send period and the error of pacing).
    """

    low_ms: float | None = None
    high_ms: float | None = None
    frame_loss_ms: float | None = None
    resolution_ms: float | None = None


@dataclass(frozen=True, slots=True)
class InterruptionPerDirection:
    """Service interruption forward and return."""

    forward: Interruption = field(default_factory=Interruption)
    return_: Interruption = field(default_factory=Interruption)


@dataclass(frozen=True, slots=True)
class DescriptorCount:
    """Descriptors of the netdevs: those that are one open file on both sides, and those that are not."""

    paired: int | None = None
    unpaired: int | None = None


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
class Hop:
    """Packets of the test stream at one hop: ``entered - left - dropped`` is what is not explained.

    :param counted_by: where the figures come from: ``tc -s``, ``/sys/class/net/tap0/statistics``, the reflector's log.
    """

    hop: str
    direction: Direction
    entered: int | None = None
    left: int | None = None
    dropped: int | None = None
    counted_by: str = ""

    @property
    def unexplained(self) -> int | None:
        """Packets that entered, did not leave, and that nobody counted as dropped; None when a counter is absent."""
        if self.entered is None or self.left is None:
            return None
        return self.entered - self.left - (self.dropped or 0)


@dataclass(frozen=True, slots=True)
class MissingPackets:
    """One row of the ledger: packets missing at the end, and where and when they went.

    :param hop: the place, or ``unexplained``.
    :param moment: relative to the update: ``before STOP``, ``STOP to RESUME``, ``12 ms after RESUME``.
    :param reason: the kernel's drop reason or the counter that moved.
    :param cause: whose fault it is; left ``unknown`` it counts against the update.
    :param sequences: sequence numbers, as many as are worth listing.
    """

    hop: str
    direction: Direction
    moment: str
    reason: str
    count: int
    cause: Cause = Cause.UNKNOWN
    sequences: tuple[int, ...] = ()


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
class Instrument:
    """How far the measuring can be trusted.

    :param own_drops: packets that the capture itself lost (PACKET_STATISTICS, SO_RXQ_OVFL).
    :param reflector_drops: packets that the reflector's socket lost for want of room.
    :param reflector_alive: the reflector answered at the end and handed out its log.
    :param pacing_p99_us: 99th percentile of the distance between planned and actual sending, in microseconds.
    :param calibration_sent, calibration_lost: packets of the run without update, in the same session.
    :param calibration_interruption_ms: longest gap seen without any update: the floor of what can be claimed.
    :param clock_offset_us, clock_error_us: guest clock minus host clock, and how well that is known.
    :param missing_counters: counters that the ledger wanted and that were not there.
    """

    own_drops: int | None = None
    reflector_drops: int | None = None
    reflector_alive: bool | None = None
    pacing_p99_us: float | None = None
    calibration_sent: int | None = None
    calibration_lost: int | None = None
    calibration_interruption_ms: float | None = None
    clock_offset_us: float | None = None
    clock_error_us: float | None = None
    missing_counters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GuestFact:
    """One thing the guest sees, before and after: features, offloads, queue pairs, filters, link state."""

    name: str
    before: str | None
    after: str | None
    must_match: bool = True


@dataclass(frozen=True, slots=True)
class Stream:
    """A further stream beside the main one: started in the guest, TCP, another flow.

    :param kind: ``stamp``, ``udp`` or ``tcp``.
    :param sent, lost, duplicates, reordered: packets (for TCP: octets sent; lost is octets that differ or are missing).
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
class QemuFacts:
    """The QEMU under test.

    :param cpr_supported: query-qmp-schema knows ``cpr`` of NetdevTapOptions; None when it was not asked.
    """

    path: str
    version: str = ""
    sha256: str = ""
    cpr_supported: bool | None = None
    description: str = ""
