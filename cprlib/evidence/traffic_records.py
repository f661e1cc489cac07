"""The parts of a case's evidence that traffic gives: counts, interruption, ledger, instrument, further streams.

A value that is not known is None, never 0: the judge takes what is absent for inconclusive, not for good.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cprlib.codec import Count
from cprlib.evidence.terms import Cause, Direction


class PerDirection(msgspec.Struct, frozen=True, rename={"return_": "return"}):
    """Packets counted in each direction; None where it is not known.

    One-way loss is RFC 7680's, duplicates RFC 5560's, reordered RFC 4737's.
    """

    forward: Count | None = None
    return_: Count | None = None

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


class InterruptionPerDirection(msgspec.Struct, frozen=True, rename={"return_": "return"}):
    """Service interruption forward and return."""

    forward: Interruption = Interruption()
    return_: Interruption = Interruption()


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
class Instrument:
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
