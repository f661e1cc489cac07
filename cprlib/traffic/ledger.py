"""The ledger of missing packets: each ends in one row with a hop, a moment and a reason; "unexplained" is a hop too.

Three sources, the most exact first: drop events of the kernel, joined to missing packets by place and time; drop
counters of the hops; and packets that vanished between two counters.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cprlib.traffic.figures import Cause, Direction, LedgerRow
from cprlib.traffic.hops import HopCount
from cprlib.traffic.kernel_drops import CLOCK_ERROR_NS, DropReport, place_by_events
from cprlib.traffic.result import TrafficResult

UNEXPLAINED = "unexplained"
NEAR_NS = 100_000_000  # losses this near to STOP or RESUME have a row apart from those farther away
SEQUENCES_KEPT = 64
INSTRUMENT_HOPS = ("capture", "reflector", "station")
QUEUE_FULL = "tap.tx_dropped"  # tun_net_xmit() drops packets when the queue is full (drivers/net/tun.c)


@dataclass(frozen=True, slots=True)
class Moments:
    """When the guest stood still in one update, CLOCK_REALTIME in ns; None for what is not known.

    :param number: of the update where there were several; rows then say which one they belong to.
    """

    stop_ns: int | None = None
    resume_ns: int | None = None
    number: int | None = None

    def distance(self, moment_ns: int) -> int:
        """Time from a moment to the nearer of STOP and RESUME, 0 for one in between."""
        if self.stop_ns is None:
            return sys.maxsize
        if moment_ns < self.stop_ns:
            return self.stop_ns - moment_ns
        return max(0, moment_ns - (self.resume_ns if self.resume_ns is not None else self.stop_ns))


def nearest(moment_ns: int, updates: Sequence[Moments]) -> Moments:
    """The update whose STOP or RESUME is nearest to a moment; one that knows neither when there is none."""
    return min(updates, key=lambda update: update.distance(moment_ns), default=Moments())


@dataclass(frozen=True, slots=True)
class MissingPacket:
    """One packet that is missing, and where it went once that is known.

    :param sent_ns: when it was sent in this direction: T1, or T3 on the host's clock.
    """

    direction: Direction
    flow: str
    sequence: int
    sent_ns: int
    hop: str = UNEXPLAINED
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Hops with their counts, and a row for every missing packet.

    :param notes: what the ledger could not look at: absent counters, no tracepoint.
    """

    hops: tuple[HopCount, ...]
    rows: tuple[LedgerRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """All missing packets."""
        return sum(row.count for row in self.rows)

    @property
    def unexplained(self) -> int:
        """Those that no hop accounts for."""
        return sum(row.count for row in self.rows if row.hop == UNEXPLAINED)


def missing_packets(result: TrafficResult) -> tuple[MissingPacket, ...]:
    """Every lost packet of a result, in order of sending.

    Without the reflector's log single packets have no direction; they are then missing from this list (see
    :attr:`TrafficResult.undetermined`) and :func:`make_ledger` puts their number into rows of its own.
    """
    found = []
    for flow in result.flows:
        for direction, part in ((Direction.FORWARD, flow.forward), (Direction.RETURN, flow.returning)):
            for sequence, moment in zip(part.missing or (), part.missing_ns, strict=True):
                found.append(MissingPacket(direction, flow.flow.name, sequence, moment))
    return tuple(sorted(found, key=lambda packet: (packet.sent_ns, packet.sequence)))


def make_ledger(
    result: TrafficResult, hops: Sequence[HopCount], drops: DropReport, updates: Sequence[Moments] = ()
) -> Ledger:
    """Place every missing packet.

    :param hops: see :func:`cprlib.traffic.hops.count_hops`.
    :param drops: the kernel's drop events during the run.
    :param updates: when the guest stood still in each update; empty for a run without one.
    """
    notes = [f"no counter: {hop.hop} {hop.direction}" for hop in hops if hop.unexplained is None]
    if not drops.available:
        notes.append(f"kernel drop events: not available ({drops.why})")
    elif drops.lost:
        notes.append(f"kernel drop events: {drops.lost} were lost")
    placed: list[MissingPacket] = []
    for direction in Direction:
        packets = [packet for packet in missing_packets(result) if packet.direction is direction]
        ours = [hop for hop in hops if hop.direction is direction]
        clock = result.instrument.clock
        # T3 comes from the guest's clock, which is known less well than the host's.
        error_ns = round(clock.error_ns) if clock is not None and direction is Direction.RETURN else CLOCK_ERROR_NS
        placed += place(packets, ours, drops, updates, clock_error_ns=error_ns)
    rows = list(rows_of(placed, updates))
    rows += _rows_without_log(result)
    return Ledger(tuple(hops), tuple(rows), tuple(notes))


def place(
    packets: Sequence[MissingPacket],
    hops: Sequence[HopCount],
    drops: DropReport,
    updates: Sequence[Moments],
    *,
    clock_error_ns: int = CLOCK_ERROR_NS,
) -> list[MissingPacket]:
    """Give each missing packet of one direction a hop and a reason.

    Where only a counter tells, not which packets it was, those sent while the guest stood still are taken first for a
    queue that was full; for everything else the earliest ones.
    """
    waiting = list(packets)
    accounts = {hop.hop: (hop.dropped or 0) + max(0, hop.unexplained or 0) for hop in hops}
    placed = place_by_events(waiting, drops, accounts, clock_error_ns)
    by_event: dict[str, int] = defaultdict(int)
    for packet in placed:
        by_event[packet.hop] += 1
    for hop in hops:
        for counter, count in hop.dropped_by.items():
            remaining = max(0, (count or 0) - by_event[hop.hop])
            by_event[hop.hop] -= (count or 0) - remaining
            placed += _take(waiting, remaining, hop.hop, f"counted by {counter}", updates)
    for hop in hops:
        vanished = max(0, (hop.unexplained or 0) - by_event[hop.hop])  # those of an event need no second account
        reason = f"entered, never left, not counted as dropped ({hop.counted_by})"
        placed += _take(waiting, vanished, hop.hop, reason, updates)
    placed += place_by_events(waiting, drops, clock_error_ns=clock_error_ns, unknown=True)
    return placed + [replace(packet, reason="no hop accounts for it") for packet in waiting]


def _take(
    waiting: list[MissingPacket], count: int, hop: str, reason: str, updates: Sequence[Moments]
) -> list[MissingPacket]:
    """Take so many packets out of those that wait for a place."""
    if not count:
        return []
    order = list(range(len(waiting)))
    if hop == "tap queue":
        order.sort(key=lambda index: not any(update.distance(waiting[index].sent_ns) == 0 for update in updates))
    chosen = sorted(order[:count])
    taken = [replace(waiting[index], hop=hop, reason=reason) for index in chosen]
    for index in reversed(chosen):
        del waiting[index]
    return taken


def rows_of(packets: Sequence[MissingPacket], updates: Sequence[Moments]) -> list[LedgerRow]:
    """Put placed packets into rows, each relative to the update that it is nearest to."""
    groups: dict[tuple[Direction, str, Moments, int, str], list[MissingPacket]] = defaultdict(list)
    for packet in packets:
        moments = nearest(packet.sent_ns, updates)
        groups[packet.direction, packet.hop, moments, _period(packet.sent_ns, moments), packet.reason].append(packet)
    rows = []
    for (direction, hop, moments, period, reason), members in sorted(
        groups.items(), key=lambda item: min(packet.sent_ns for packet in item[1])
    ):
        sequences = tuple(sorted(packet.sequence for packet in members)[:SEQUENCES_KEPT])
        moment = _words(period, [packet.sent_ns for packet in members], moments)
        rows.append(LedgerRow(hop, direction, moment, reason, len(members), cause_of(hop, reason), sequences))
    return rows


def cause_of(hop: str, reason: str) -> Cause:
    """What lost the packets of a row, as far as place and counter show; what is not known counts against the update."""
    if hop in INSTRUMENT_HOPS:
        return Cause.INSTRUMENT
    if hop == "guest stack":
        return Cause.GUEST
    if hop == "tap queue":
        return Cause.OVERFLOW if QUEUE_FULL in reason or "FULL_RING" in reason else Cause.UPDATE
    return Cause.UPDATE if hop == "qemu" else Cause.UNKNOWN


def _rows_without_log(result: TrafficResult) -> list[LedgerRow]:
    """Losses that are known by number only, because the reflector's log is not there."""
    rows = []
    unlisted = (
        (Direction.FORWARD, sum(flow.forward.lost for flow in result.flows if flow.forward.missing is None)),
        (Direction.RETURN, sum(flow.returning.lost for flow in result.flows if flow.returning.missing is None)),
    )
    for direction, count in unlisted:
        if count:
            rows.append(LedgerRow(UNEXPLAINED, direction, "unknown", "the reflector's log is missing", count))
    if result.undetermined:
        reason = "after the last answer: direction unknown without the reflector's log"
        rows.append(LedgerRow(UNEXPLAINED, Direction.FORWARD, "at the end", reason, result.undetermined))
    return rows


def _period(moment: int, moments: Moments) -> int:
    """0 no update, 1 long before STOP, 2 just before, 3 between, 4 just after RESUME, 5 long after."""
    if moments.stop_ns is None:
        return 0
    if moment < moments.stop_ns:
        return 1 if moments.stop_ns - moment > NEAR_NS else 2
    if moments.resume_ns is None or moment <= moments.resume_ns:
        return 3
    return 5 if moment - moments.resume_ns > NEAR_NS else 4


def _words(period: int, sent_ns: Sequence[int], moments: Moments) -> str:
    which = f" of update {moments.number}" if moments.number is not None else ""
    return _distance_words(period, sent_ns, moments) + which


def _distance_words(period: int, sent_ns: Sequence[int], moments: Moments) -> str:
    if period == 0 or moments.stop_ns is None:
        return "without an update"
    if period == 3:
        first, last = ((moment - moments.stop_ns) / 1e6 for moment in (min(sent_ns), max(sent_ns)))
        return f"{_span(first, last)} after STOP, before RESUME"
    if period in (1, 2):
        first, last = ((moments.stop_ns - moment) / 1e6 for moment in (max(sent_ns), min(sent_ns)))
        return f"{_span(first, last)} before STOP"
    assert moments.resume_ns is not None
    first, last = ((moment - moments.resume_ns) / 1e6 for moment in (min(sent_ns), max(sent_ns)))
    return f"{_span(first, last)} after RESUME"


def _span(first: float, last: float) -> str:
    return f"{first:.1f} ms" if f"{first:.1f}" == f"{last:.1f}" else f"{first:.1f} to {last:.1f} ms"
