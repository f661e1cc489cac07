"""Figures of a stream that end in case.json: counts and interruption per direction, rows of the ledger.

A value that is not known is None, never 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import msgspec

from cprlib.codec import Count


class Direction(enum.StrEnum):
    """Forward is from sender to reflector (into the guest), return is back."""

    FORWARD = "forward"
    RETURN = "return"


class PerDirection(msgspec.Struct, frozen=True, rename={"return_": "return"}):
    """Packets counted in each direction.

    One-way loss is defined by RFC 7680, duplicates by RFC 5560, reordered packets by RFC 4737.
    """

    forward: Count | None = None
    return_: Count | None = None

    @property
    def total(self) -> int | None:
        """The sum, None unless both are known."""
        return None if self.forward is None or self.return_ is None else self.forward + self.return_


@dataclass(frozen=True, slots=True)
class Interruption:
    """Service interruption in one direction, by both methods of RFC 6201, in milliseconds; the worst flow's.

    :param low_ms, high_ms: time-stamp based: it lies between these two.
    :param frame_loss_ms: frame-loss based: packets lost / rate.
    :param resolution_ms: neither figure is finer than this (one send period of a flow).
    """

    low_ms: float | None = None
    high_ms: float | None = None
    frame_loss_ms: float | None = None
    resolution_ms: float | None = None


class InterruptionPerDirection(msgspec.Struct, frozen=True, rename={"return_": "return"}):
    """Service interruption forward, as the reflector saw it, and return, as the session-sender saw it."""

    forward: Interruption = Interruption()
    return_: Interruption = Interruption()


class HopName(enum.StrEnum):
    """The hops of a test packet's path; other rows of the ledger are at ``kernel: FUNCTION``."""

    STATION = "station"
    SWITCH = "switch"
    TAP_QUEUE = "tap queue"
    QEMU = "qemu"
    GUEST_STACK = "guest stack"
    REFLECTOR = "reflector"
    CAPTURE = "capture"
    STATION_STACK = "station stack"
    UNEXPLAINED = "unexplained"  # no event and no counter explains where the packet was lost


class Cause(enum.StrEnum):
    """What lost a packet, by place and counters; only ``update`` and ``unknown`` count against the update."""

    UPDATE = "update"
    OVERFLOW = "overflow"  # the tap queue was full: judged beside the budget
    GUEST = "guest"  # the guest's own queue or socket
    INSTRUMENT = "instrument"  # the station before the switch, the capture, or the reflector
    UNKNOWN = "unknown"


class Period(enum.StrEnum):
    """The part of a run in which packets were lost; "shortly" is within 100 ms."""

    NO_UPDATE = "without an update"
    LONG_BEFORE = "before the update"
    BEFORE_STOP = "shortly before STOP"
    STOPPED = "between STOP and RESUME"
    AFTER_RESUME = "shortly after RESUME"
    LONG_AFTER = "after the update"
    UNKNOWN = "at an unknown time"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Missing packets of one hop, moment and reason.

    :param hop: a :class:`HopName`, or ``kernel: FUNCTION``.
    :param moment: relative to the update: ``1.2 ms before STOP``, ``12 ms after RESUME``.
    :param period: the part of the run that the moment lies in.
    :param reason: the kernel's drop reason, or the counter that increased.
    :param sequences: sequence numbers of the sender, the first 64.
    """

    hop: str
    direction: Direction
    moment: str
    reason: str
    count: Count
    cause: Cause = Cause.UNKNOWN
    sequences: tuple[int, ...] = ()
    period: Period = Period.UNKNOWN
