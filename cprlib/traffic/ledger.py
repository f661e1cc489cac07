"""The ledger of missing packets: each is in one row with a hop, a moment and a reason; "unexplained" is a hop too.

Three sources, the most exact first: drop events of the kernel, matched with missing packets by function and time; drop
counters of the hops; packets that are counted on entering a hop and not on leaving it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cprlib.traffic.figures import Cause, Direction, HopName, LedgerRow, Period
from cprlib.traffic.hops import HopCount
from cprlib.traffic.kernel_drops import CLOCK_ERROR_NS, FULL_TAP, DropReport, MissingPacket, place_by_events
from cprlib.traffic.result import TrafficResult

NEAR_NS = 100_000_000  # losses this close to STOP or RESUME have a row of their own
SEQUENCES_KEPT = 64
INSTRUMENT_HOPS = (HopName.CAPTURE, HopName.REFLECTOR, HopName.STATION)
# A full queue: tun_net_xmit() drops (drivers/net/tun.c); a kernel whose tap stops its transmit queue instead leaves the
# packets to the queueing discipline before it, which drops them when it is full too.
TAP_DROPS = "tap.tx_dropped"
FULL_COUNTERS = (TAP_DROPS, "tap.queue_out_dropped")
FULL_REASONS = ("FULL_RING", "QDISC_DROP", "QDISC_OVERLIMIT")
# A checksum is wrong; the guest's NIC took no packet for longer than the reflector tries.
OF_UPDATE = ("guest.udp_in_errors", "reflector.send_errors")


@dataclass(frozen=True, slots=True)
class GuestStop:
    """When the guest was stopped in one update, CLOCK_REALTIME in ns; None when unknown.

    :param number: the update's number, if there are several; rows then name their update.
    """

    stop_ns: int | None = None
    resume_ns: int | None = None
    number: int | None = None

    def distance(self, time_ns: int) -> int:
        """Distance of a time to the nearer of STOP and RESUME; 0 between them."""
        if self.stop_ns is None:
            return sys.maxsize
        if time_ns < self.stop_ns:
            return self.stop_ns - time_ns
        return max(0, time_ns - (self.resume_ns if self.resume_ns is not None else self.stop_ns))


def nearest(time_ns: int, updates: Sequence[GuestStop]) -> GuestStop:
    """The update whose STOP or RESUME is nearest to a time; one without either when there is no update."""
    return min(updates, key=lambda update: update.distance(time_ns), default=GuestStop())


@dataclass(frozen=True, slots=True)
class Ledger:
    """The counts of all hops, and the rows of the missing packets.

    :param notes: missing information: absent counters, no tracepoint.
    """

    hops: tuple[HopCount, ...]
    rows: tuple[LedgerRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        return sum(row.count for row in self.rows)

    @property
    def unexplained(self) -> int:
        """Number of missing packets that no hop explains."""
        return sum(row.count for row in self.rows if row.hop == HopName.UNEXPLAINED)


def missing_packets(result: TrafficResult) -> tuple[MissingPacket, ...]:
    """The lost packets of a result, in order of sending.

    Without the reflector's log the direction of a single packet is unknown. Such packets are not in this list;
    :func:`make_ledger` has rows with their number.
    """
    found = []
    for flow in result.flows:
        for direction, part in flow.directions.items():
            for sequence, sent_ns in zip(part.missing or (), part.missing_ns, strict=True):
                found.append(MissingPacket(direction, flow.flow.version, sequence, sent_ns))
    return tuple(sorted(found, key=lambda packet: (packet.sent_ns, packet.sequence)))


def make_ledger(
    result: TrafficResult, hops: Sequence[HopCount], drops: DropReport, updates: Sequence[GuestStop] = ()
) -> Ledger:
    """Assign every missing packet to a hop.

    :param hops: from :func:`cprlib.traffic.hops.count_hops`.
    :param drops: the kernel's drop events during the run.
    :param updates: when the guest was stopped in each update; empty for a run without updates.
    """
    notes = [f"no counter: {hop.hop} {hop.direction}" for hop in hops if hop.unaccounted is None]
    if drops.unavailable:
        notes.append(f"kernel drop events: not available ({drops.unavailable})")
    elif drops.lost:
        notes.append(f"kernel drop events: {drops.lost} were lost")
    placed: list[MissingPacket] = []
    for direction in Direction:
        packets = [packet for packet in missing_packets(result) if packet.direction is direction]
        path = [hop for hop in hops if hop.direction is direction]
        clock = result.instrument.clock
        # T3 is from the guest's clock, whose offset to the host's has an error.
        error_ns = round(clock.error_ns) if clock is not None and direction is Direction.RETURN else CLOCK_ERROR_NS
        placed += place(packets, path, drops, updates, clock_error_ns=error_ns)
    return Ledger(tuple(hops), (*rows_of(placed, updates), *_rows_without_log(result)), tuple(notes))


def place(
    packets: Sequence[MissingPacket],
    hops: Sequence[HopCount],
    drops: DropReport,
    updates: Sequence[GuestStop],
    *,
    clock_error_ns: int = CLOCK_ERROR_NS,
) -> list[MissingPacket]:
    """Assign a hop and a reason to each missing packet of one direction.

    A counter does not identify packets: the drops of a full queue are assigned to packets sent while the guest was
    stopped first, then to those sent after that, all others to the earliest packets. Drops that have an event are those
    of other packets when it fits none of these.
    """
    waiting, events = list(packets), list(drops.events)
    accounts = {hop.hop: (hop.dropped or 0) + max(0, hop.unaccounted or 0) for hop in hops}
    placed = place_by_events(waiting, events, accounts, clock_error_ns)
    of_others = sum(event.function.startswith(FULL_TAP) for event in events) if drops.complete else 0
    by_event: dict[str, int] = defaultdict(int)
    for packet in placed:
        by_event[packet.hop] += 1
    for hop in hops:
        for counter, count in hop.dropped_by.items():
            remaining = max(0, (count or 0) - by_event[hop.hop])
            by_event[hop.hop] -= (count or 0) - remaining
            if counter == TAP_DROPS:
                remaining = max(0, remaining - of_others)
            placed += _take(waiting, remaining, hop.hop, f"counted by {counter}", updates, counter)
    for hop in hops:
        vanished = max(0, (hop.unaccounted or 0) - by_event[hop.hop])  # without those placed by events
        reason = f"entered, never left, not counted as dropped ({hop.counted_by})"
        placed += _take(waiting, vanished, hop.hop, reason, updates)
    placed += place_by_events(waiting, events, clock_error_ns=clock_error_ns, unknown=True)
    return placed + [replace(packet, reason="no hop accounts for it") for packet in waiting]


def _take(
    waiting: list[MissingPacket], count: int, hop: str, reason: str, updates: Sequence[GuestStop], counter: str = ""
) -> list[MissingPacket]:
    """Remove ``count`` packets from those without a hop, and assign this one.

    A queue is not full before the guest is stopped, except by packets that the kernel's events name.
    """
    if not count:
        return []
    order = list(range(len(waiting)))
    if counter in FULL_COUNTERS:
        order = [index for index in order if not _before_stop(waiting[index].sent_ns, updates)]
    if hop == HopName.TAP_QUEUE:
        order.sort(key=lambda index: not any(update.distance(waiting[index].sent_ns) == 0 for update in updates))
    chosen = sorted(order[:count])
    taken = [replace(waiting[index], hop=hop, counter=counter, reason=reason) for index in chosen]
    for index in reversed(chosen):
        del waiting[index]
    return taken


def _before_stop(time_ns: int, updates: Sequence[GuestStop]) -> bool:
    stop_ns = nearest(time_ns, updates).stop_ns
    return stop_ns is not None and time_ns < stop_ns


def rows_of(packets: Sequence[MissingPacket], updates: Sequence[GuestStop]) -> list[LedgerRow]:
    """Group packets into rows, each relative to the nearest update."""
    groups: dict[tuple[Direction, str, str, GuestStop, tuple[str, int | None, Period]], list[MissingPacket]]
    groups = defaultdict(list)
    for packet in sorted(packets, key=lambda packet: packet.sent_ns):
        stop = nearest(packet.sent_ns, updates)
        groups[packet.direction, packet.hop, packet.reason, stop, _when(packet.sent_ns, stop)].append(packet)
    rows = []
    for (direction, hop, reason, stop, (name, reference_ns, period)), members in groups.items():
        sequences = tuple(sorted(packet.sequence for packet in members)[:SEQUENCES_KEPT])
        moment = _describe_moment(name, reference_ns, [packet.sent_ns for packet in members], stop.number)
        rows.append(LedgerRow(hop, direction, moment, reason, len(members), cause_of(members[0]), sequences, period))
    return rows


def cause_of(packet: MissingPacket) -> Cause:
    """The cause of a loss by hop, counter and drop reason. An unknown cause counts against the update."""
    if packet.counter in OF_UPDATE:
        return Cause.UPDATE
    if packet.hop in INSTRUMENT_HOPS:
        return Cause.INSTRUMENT
    if packet.hop == HopName.GUEST_STACK:
        # answers without a counter wait in the guest's queue as long as QEMU takes none
        return Cause.GUEST if packet.counter or packet.direction is Direction.FORWARD else Cause.UPDATE
    if packet.hop == HopName.TAP_QUEUE:
        was_full = packet.counter in FULL_COUNTERS or packet.drop_reason in FULL_REASONS
        return Cause.OVERFLOW if was_full else Cause.UPDATE
    return Cause.UPDATE if packet.hop == HopName.QEMU else Cause.UNKNOWN


def _rows_without_log(result: TrafficResult) -> list[LedgerRow]:
    """Rows of losses that are known by number only, without the reflector's log."""
    rows = []
    for direction in Direction:
        parts = [flow.directions[direction] for flow in result.flows]
        count = sum(part.lost for part in parts if part.missing is None)
        if count:
            rows.append(LedgerRow(HopName.UNEXPLAINED, direction, "unknown", "the reflector's log is missing", count))
    if result.undetermined:
        reason = "after the last answer: direction unknown without the reflector's log"
        rows.append(LedgerRow(HopName.UNEXPLAINED, Direction.FORWARD, "at the end", reason, result.undetermined))
    return rows


def _when(time_ns: int, stop: GuestStop) -> tuple[str, int | None, Period]:
    """The part of an update in which a time lies: its name, the moment that distances count from, and its period."""
    if stop.stop_ns is None:
        return "without an update", None, Period.NO_UPDATE
    if time_ns < stop.stop_ns:
        near = stop.stop_ns - time_ns <= NEAR_NS
        return "before STOP", stop.stop_ns, Period.BEFORE_STOP if near else Period.LONG_BEFORE
    if stop.resume_ns is None or time_ns <= stop.resume_ns:
        return "after STOP, before RESUME", stop.stop_ns, Period.STOPPED
    near = time_ns - stop.resume_ns <= NEAR_NS
    return "after RESUME", stop.resume_ns, Period.AFTER_RESUME if near else Period.LONG_AFTER


def _describe_moment(name: str, reference_ns: int | None, sent_ns: Sequence[int], update: int | None) -> str:
    if reference_ns is not None:
        distances = [abs(time_ns - reference_ns) / 1e6 for time_ns in sent_ns]
        first, last = f"{min(distances):.1f}", f"{max(distances):.1f}"
        name = f"{first} ms {name}" if first == last else f"{first} to {last} ms {name}"
    return name if update is None else f"{name} of update {update}"
