"""The records of case.json and run.json.

Records of traffic are in :mod:`cprlib.traffic.figures` and :mod:`cprlib.traffic.hops`, that of a QEMU in
:mod:`cprlib.qemu.facts`. A value that is not known is None, never 0: the judge takes it as inconclusive.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from cprlib.traffic.figures import InterruptionPerDirection, PerDirection
from cprlib.update.faults import Fault, Survivor

INSTRUMENT_CHECK = "instrument"  # name of the check that says whether a case's measurement is valid


class Outcome(enum.StrEnum):
    """The result of a check, a case or a run."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    SKIP = "skip"


class Role(enum.StrEnum):
    """The purpose of a case, which decides what is expected of it."""

    UPDATE = "update"  # a live update that must satisfy the policy
    NEGATIVE_CONTROL = "negative-control"  # an update that is known to lose packets: the instrument must see the loss
    CONTROL_RUN = "control-run"  # no update: a loss is caused by the instrument or the machine
    CHECKS = "checks"  # no measured traffic, only checks


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of a case.

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
    """A property that was checked.

    :param name: the property, in kebab-case: ``descriptors-same-file``.
    :param message: what a failure means; empty for a check that passed.
    :param family: the property without the step at which it was checked, by which reports group; the name when empty.
    :param fault: name of the fault after which it was checked; empty for none.
    """

    name: str
    outcome: Outcome
    expected: str = ""
    observed: str = ""
    message: str = ""
    family: str = ""
    fault: str = ""

    @classmethod
    def of(cls, name: str, good: bool, expected: object, observed: object, message: str = "") -> Check:
        """A check that passes when ``good``, else fails with the message."""
        outcome = Outcome.PASS if good else Outcome.FAIL
        return cls(name, outcome, str(expected), str(observed), "" if good else message)

    @property
    def text(self) -> str:
        """The message, or what was expected and observed."""
        return self.message or f"expected {self.expected or '-'}, observed {self.observed or '-'}"


@dataclass(frozen=True, slots=True)
class DescriptorRow:
    """A descriptor of the source and the descriptor of the target that it is paired with.

    :param kind: ``tap``, ``vhost``, ...
    :param name: the netdev's id: ``net0``; empty for vhost of several netdevs.
    :param source_fd, target_fd: numbers; None where a QEMU has no such descriptor.
    :param same_file: result of kcmp(2) KCMP_FILE; None when it was not called.
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
    """A fact that the guest sees before and after: features, offloads, queue pairs, filters, link state."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """A fault that was injected into an update, and its result.

    :param reached: False when the update ended before the fault; None when it is not known.
    :param state: run state of the survivor; :param source_state, target_state: of both QEMUs at the end.
    :param resumed_after_ms: from the fault until the source ran the guest again; None when it did not stop or resume.
    :param traffic_after_ms: from the fault until the guest answered packets again.
    :param died_ns: when the guest was lost, where no QEMU could survive.
    :param target_exit: exit status of a target that ended by itself, negative for a signal.
    :param migration: status of query-migrate; :param error: QEMU's message.
    :param refused: message with which the source refused management's command; empty when it did not.
    :param source_messages, target_messages: last lines of both QEMUs.
    """

    fault: Fault
    reached: bool | None = None
    state: str = ""
    source_state: str = ""
    target_state: str = ""
    resumed_after_ms: float | None = None
    traffic_after_ms: float | None = None
    died_ns: int | None = None
    target_exit: int | None = None
    migration: str = ""
    error: str = ""
    refused: str = ""
    source_messages: tuple[str, ...] = ()
    target_messages: tuple[str, ...] = ()

    @property
    def may_have_moved(self) -> bool:
        """Whether another QEMU may have the guest, also because the update completed without the fault."""
        completed = self.reached is False and self.migration == "completed"
        return completed or self.fault.survivor is not Survivor.SOURCE


@dataclass(frozen=True, slots=True)
class UpdateFigures:
    """Figures of one update, from the packets that were sent nearer to it than to any other update of the case.

    :param number: from 1.
    :param sent: packets; :param loss: of these.
    :param duplicates, reordered: among these (RFC 5560, RFC 4737).
    :param stop_to_resume_ms: from STOP of the source to RESUME of the target, by QEMU's time stamps.
    :param traffic_after_ms: from RESUME until an answer had arrived on every flow.
    :param descriptors: of the target while it ran the guest, by kind.
    :param anonymous_kib: memory of the target without guest RAM (RssAnon in /proc/PID/status).
    :param note: both QEMUs, where source and target differ.
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
    """The packets that a tap queue holds while no QEMU reads it.

    :param queue_length: packets (txqueuelen of the tap), of the queue that a flow uses.
    :param rate: packets per second that arrive at it.
    """

    queue_length: int
    rate: float

    @property
    def longest_pause_ms(self) -> float | None:
        """The longest pause that loses nothing: queue length / rate."""
        return self.queue_length / self.rate * 1000 if self.rate > 0 else None

    def is_exceeded(self, interruption: InterruptionPerDirection) -> bool:
        """Whether a pause in either direction was longer than the queue has room for."""
        room, pauses = self.longest_pause_ms, (interruption.forward.high_ms, interruption.return_.high_ms)
        return room is not None and any(pause is not None and pause > room for pause in pauses)


@dataclass(frozen=True, slots=True)
class InstrumentHealth:
    """Drops and errors of the instrument itself.

    :param capture_drops: packets that the capture lost (PACKET_STATISTICS, SO_RXQ_OVFL).
    :param reflector_drops: packets that the reflector's full socket lost.
    :param reflector_lag_ms: the longest time from reception of a packet to its answer while the NIC had room: the guest
        had too little processor time; None when unknown.
    :param reflector_alive: the reflector answered at the end and sent its log.
    :param pacing_p99_us: 99th percentile of the difference between scheduled and actual sending, in microseconds.
    :param control_run_sent, control_run_lost: packets of the control run.
    :param control_run_interruption_ms: longest gap in the control run: no shorter interruption can be measured.
    :param clock_offset_us, clock_error_us: guest clock minus host clock, and its error.
    :param missing_counters: counters that the ledger needs and that could not be read.
    """

    capture_drops: int | None = None
    reflector_drops: int | None = None
    reflector_lag_ms: float | None = None
    reflector_alive: bool | None = None
    pacing_p99_us: float | None = None
    control_run_sent: int | None = None
    control_run_lost: int | None = None
    control_run_interruption_ms: float | None = None
    clock_offset_us: float | None = None
    clock_error_us: float | None = None
    missing_counters: tuple[str, ...] = ()


FLOW = "flow"  # kind of a stream


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream besides the main one: started in the guest, TCP; or one of several flows of the main stream.

    :param kind: ``stamp``, ``udp``, ``tcp``, or :data:`FLOW`, whose packets are those of the main stream.
    :param sent, lost, duplicates, reordered: packets (for TCP: bytes sent; lost are bytes that differ or are missing).
    :param lost_from_guest: of the packets lost, those on the way out of the guest, which pass no tap queue; None when
        unknown.
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
    lost_from_guest: int | None = None


@dataclass(frozen=True, slots=True)
class QueueShare:
    """Packets of all streams on one queue pair of the guest's NIC during the measured run.

    :param received: by the guest; :param sent: by the guest; both counted by the guest.
    """

    queue: int
    received: int | None = None
    sent: int | None = None


class StatePair(enum.StrEnum):
    """Which two states are compared as a whole."""

    UPDATE = "update"  # before and after a live update
    FAILED_UPDATE = "failed-update"  # the source, before and after a failed update
    CHAIN = "chain"  # the first source of a chain of updates, and its last target
    DEVICE_STATE = "device-state"  # the migration streams of two updates in a row
    PAUSED = "paused"  # memory, registers and device state of a guest that does not run, before and after an update
    RELEASE = "release"  # the format of the device state in a release, and in the QEMU under test
    STOP_CONT = "stop-cont"  # the same QEMU, before and after its guest was stopped and continued


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that differs between two states.

    :param path: of the value; its first part is the side: ``qom``, ``process``, ``kernel``, ``guest``, ...
    :param before, after: the values; None where a state does not have it.
    """

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class EquivalenceRecord:
    """Two states of a guest, its QEMU and its host, compared value by value.

    :param subject: what happened between them: ``update 2``, the name of a fault.
    :param compared: number of values.
    :param allowed: number of differences that fixtures/equivalence.toml allows.
    :param differences: all others.
    :param unread: sides that could not be read, with the reason.
    :param check: name of the check that needs the states to be equal.
    """

    comparison: StatePair
    subject: str
    compared: int
    allowed: int = 0
    differences: tuple[Difference, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    check: str = ""
