"""The hops on a test packet's path, and their counters: what enters a hop must leave it or be counted as dropped.

::

    forward   session-sender > station > switch > tap queue > qemu > guest stack > reflector
    return    reflector > guest stack > qemu > switch > station > capture > station stack

A counter's name is ``place.counter``. The caller reads all counters before and after a run into two mappings. A counter
that could not be read is missing from them; it is reported as absent, never as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cprlib.traffic.figures import Direction, HopName


@dataclass(frozen=True, slots=True)
class Hop:
    """A hop and the counters at its two ends.

    :param entered, left: names of counters; what entered is the sum of several, separated by blanks.
    :param dropped: counters of packets that this hop dropped.
    :param others: counters of packets that entered but are not test packets (ARP, MLD, another stream, malformed).
    """

    name: HopName
    direction: Direction
    entered: str
    left: str
    dropped: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def counters(self) -> tuple[str, ...]:
        return (*self.entered.split(), self.left, *self.dropped, *self.others)


def _path(
    direction: Direction, entered: str, *hops: tuple[HopName, str, str] | tuple[HopName, str, str, str]
) -> Iterator[Hop]:
    """The hops of one direction; what leaves a hop enters the next.

    :param entered: counter of the packets that enter the first one.
    :param hops: name, counter of those that leave, names of the counters of drops, and of other packets if any.
    """
    for name, left, dropped, *others in hops:
        yield Hop(name, direction, entered, left, tuple(dropped.split()), tuple(others))
        entered = left


#: ``tap.tx_packets`` counts packets as QEMU or vhost *reads* them from the queue (tun_put_user, drivers/net/tun.c).
#: ``port.rx_passed`` is ``port.rx_packets`` without those that an ingress queue or filter dropped;
#: ``queue_in_dropped`` and ``queue_out_dropped`` are drops of queueing disciplines, which no link counter has.
#: ``capture.announcements`` are the RARP frames, which QEMU sends itself.
#: ``capture.frames`` reached the capture's socket, which is open for a shorter time than the interface is counted.
HOPS = (
    *_path(
        Direction.FORWARD,
        "sender.sent",
        (HopName.STATION, "station.tx_packets", "station.tx_dropped station.queue_out_dropped"),
        (HopName.SWITCH, "port.rx_passed", "port.rx_dropped port.queue_in_dropped"),
        (HopName.TAP_QUEUE, "tap.tx_packets", "tap.tx_dropped tap.tx_errors tap.queue_out_dropped"),
        (HopName.QEMU, "guest.rx_packets", "guest.rx_dropped guest.rx_errors"),
        (HopName.GUEST_STACK, "reflector.received", "guest.udp_in_errors reflector.overflow"),
        (HopName.REFLECTOR, "reflector.logged", "reflector.log_overflow", "reflector.ignored"),
    ),
    *_path(
        Direction.RETURN,
        "reflector.logged",
        (HopName.REFLECTOR, "reflector.sent", "reflector.send_errors"),
        (HopName.GUEST_STACK, "guest.tx_packets", "guest.tx_dropped guest.tx_errors"),
    ),
    *_path(
        Direction.RETURN,
        "guest.tx_packets capture.announcements",
        (HopName.QEMU, "tap.rx_packets", "tap.rx_dropped tap.rx_errors"),
        (HopName.SWITCH, "port.tx_packets", "port.tx_dropped tap.queue_in_dropped port.queue_out_dropped"),
        (HopName.STATION, "station.rx_packets", "station.rx_dropped"),
    ),
    *_path(
        Direction.RETURN,
        "capture.frames",
        (HopName.CAPTURE, "capture.captured", "capture.drops", "capture.others"),
        (HopName.STATION_STACK, "capture.answers", "capture.bad_checksums"),
    ),
)

_COUNTERS = tuple(dict.fromkeys(name for hop in HOPS for name in hop.counters))


@dataclass(frozen=True, slots=True)
class HopCount:
    """Packets at one hop during a run; None where a counter is absent.

    :param dropped_by: packets counted as dropped, by counter; never below 0.
    :param counted_by: names of all counters.
    :param others: packets that entered but are not test packets.
    """

    hop: str
    direction: Direction
    entered: int | None
    left: int | None
    dropped_by: Mapping[str, int | None]
    counted_by: str
    others: int | None = 0

    @property
    def dropped(self) -> int | None:
        """Packets counted as dropped; None when no counter could be read."""
        known = [count for count in self.dropped_by.values() if count is not None]
        return sum(known) if known or not self.dropped_by else None

    @property
    def unaccounted(self) -> int | None:
        """Packets that entered, did not leave and are not counted as dropped; None when a counter is absent."""
        if self.entered is None or self.left is None or self.others is None:
            return None
        return self.entered - self.left - self.others - (self.dropped or 0)


def count_hops(before: Mapping[str, int | None], after: Mapping[str, int | None]) -> tuple[HopCount, ...]:
    """Differences of all counters over a run, by hop."""
    absent = absent_counters(before, after)
    deltas = {name: None if name in absent else (after[name] or 0) - (before[name] or 0) for name in _COUNTERS}

    def dropped(counter: str) -> int | None:
        """At least 0: a difference of two counters may fall."""
        count = deltas[counter]
        return None if count is None else max(0, count)

    def total(names: Sequence[str]) -> int | None:
        known = [count for name in names if (count := deltas[name]) is not None]
        return sum(known) if len(known) == len(names) else None

    return tuple(
        HopCount(
            hop.name,
            hop.direction,
            total(hop.entered.split()),
            deltas[hop.left],
            {counter: dropped(counter) for counter in hop.dropped},
            ", ".join(hop.counters),
            total(hop.others),
        )
        for hop in HOPS
    )


def absent_counters(before: Mapping[str, int | None], after: Mapping[str, int | None]) -> tuple[str, ...]:
    """Names of the ledger's counters that could not be read both before and after the run."""
    return tuple(name for name in _COUNTERS if before.get(name) is None or after.get(name) is None)
