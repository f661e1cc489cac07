"""Figures from records: pure functions, each after an RFC. What arrives late is reordered, not lost.

Sequence numbers are those of one flow, counted from 0 by the one who sends. A function that takes ``arrived`` wants
them in the order of arrival, copies included.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Neighbouring sequence numbers, both ends included."""

    first: int
    last: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.last - self.first + 1


def missing_sequences(sent: int, arrived: Iterable[int]) -> tuple[int, ...]:
    """Packets lost one way (Type-P-One-way-Packet-Loss, RFC 7680 section 2): sent, and never arrived.

    :param sent: packets sent, numbered 0 to sent - 1. The run must have waited long enough for late ones (the loss
        threshold Tmax of RFC 7680 section 2.3 is the time from the last packet to the end of the capture).
    """
    seen = bytearray(sent)
    for sequence in arrived:
        if 0 <= sequence < sent:
            seen[sequence] = 1
    found = []
    position = seen.find(0)
    while position >= 0:
        found.append(position)
        position = seen.find(0, position + 1)
    return tuple(found)


def ranges(sequences: Collection[int]) -> tuple[Range, ...]:
    """Ascending sequence numbers as runs of neighbours (the loss periods of RFC 3357 section 4)."""
    found: list[Range] = []
    for sequence in sequences:
        if found and sequence == found[-1].last + 1:
            found[-1] = Range(found[-1].first, sequence)
        else:
            found.append(Range(sequence, sequence))
    return tuple(found)


def count_duplicates(arrived: Collection[int]) -> int:
    """Copies beyond the first of each packet (Type-P-one-way-packet-duplication, RFC 5560 section 2)."""
    return len(arrived) - len(set(arrived))


def duplicated_sequences(arrived: Iterable[int]) -> tuple[int, ...]:
    """The number of each copy that :func:`count_duplicates` counts, in the order of arrival."""
    seen: set[int] = set()
    copies = []
    for sequence in arrived:
        if sequence in seen:
            copies.append(sequence)
        seen.add(sequence)
    return tuple(copies)


@dataclass(frozen=True, slots=True)
class LossBySequence:
    """Loss in each direction as the reflector's own sequence number tells it, without its log.

    :param forward: packets that never came to the reflector, :param returning: answers that never came back.
    :param undetermined: packets missing after the last answer: nothing tells in which direction they were lost.
    """

    forward: int
    returning: int
    undetermined: int


def loss_by_sequence(sent: int, arrived: Sequence[tuple[int, int]], first: int = 0) -> LossBySequence:
    """One-way loss per direction (RFC 7680) from the two sequence numbers of the answers (RFC 8762 section 4.3).

    The reflector has answered max(reflector's number) + 1 - first packets; of these, as many answers are missing as
    numbers have not come back. Packets missing beyond that never reached it. Exact when the network made no copy on the
    way forward and kept the order there; the log (:func:`missing_sequences` on it) is exact always.

    :param arrived: sender's and reflector's sequence number of each answer.
    :param first: the reflector's number for the first answer of this session; 0 for a new one.
    """
    if not arrived:
        return LossBySequence(0, 0, sent)
    highest = max(reflector for _, reflector in arrived)
    horizon = max(sender for sender, _ in arrived)
    returning = highest + 1 - first - len({reflector for _, reflector in arrived})
    missing_before = horizon + 1 - len({sender for sender, _ in arrived})
    return LossBySequence(max(0, missing_before - returning), max(0, returning), sent - horizon - 1)


@dataclass(frozen=True, slots=True)
class Reordering:
    """Reordering of one flow in one direction (RFC 4737).

    :param reordered: packets that came after one with a higher number (Type-P-Reordered, section 3).
    :param total: distinct packets that came.
    :param largest_extent: how many places too late the worst of them came, in packets (section 4.2).
    """

    reordered: int
    total: int
    largest_extent: int

    @property
    def ratio(self) -> float:
        """Type-P-Reordered-Ratio-Stream (section 4.1); 0 when nothing came."""
        return self.reordered / self.total if self.total else 0.0


def reordering(arrived: Iterable[int]) -> Reordering:
    """Singletons, ratio and extent of reordering (RFC 4737 sections 3, 4.1 and 4.2); copies are left out (section 3.3).

    The extent of a reordered packet is the distance, in packets that arrived, to the earliest one that came before it
    with a higher number.
    """
    seen: set[int] = set()
    records: list[int] = []  # numbers that were the highest so far, ascending
    places: list[int] = []  # and their places in the order of arrival
    reordered = extent = place = 0
    for sequence in arrived:
        if sequence in seen:
            continue
        seen.add(sequence)
        if records and sequence < records[-1]:
            reordered += 1
            extent = max(extent, place - places[bisect.bisect_right(records, sequence)])
        else:
            records.append(sequence)
            places.append(place)
        place += 1
    return Reordering(reordered, place, extent)


def late_sequences(arrived: Iterable[int]) -> tuple[int, ...]:
    """The numbers of the packets that :func:`reordering` counts as reordered, in the order of arrival."""
    seen: set[int] = set()
    late = []
    highest = -1
    for sequence in arrived:
        if sequence not in seen and sequence < highest:
            late.append(sequence)
        seen.add(sequence)
        highest = max(highest, sequence)
    return tuple(late)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Delays in ns: how many, the lowest, percentiles by nearest rank (RFC 2330 section 11.3), the highest."""

    count: int
    minimum: int
    p50: int
    p95: int
    p99: int
    maximum: int
    mean: float


def distribution(delays_ns: Iterable[int]) -> Distribution | None:
    """The distribution of one-way or round-trip delays (RFC 7679 section 5, RFC 2681); None when there are none."""
    ordered = sorted(delays_ns)
    if not ordered:
        return None

    def rank(percent: int) -> int:
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

    count = len(ordered)
    return Distribution(count, ordered[0], rank(50), rank(95), rank(99), ordered[-1], sum(ordered) / count)


@dataclass(frozen=True, slots=True)
class TimestampInterruption:
    """The longest service interruption by time stamps: it lies between ``low_ns`` and ``high_ns``.

    :param after_ns: arrival of the last packet before it, :param until_ns: of the first one after.
    :param lost: packets that were sent between these two and never arrived.
    """

    low_ns: int
    high_ns: int
    after_ns: int
    until_ns: int
    lost: int


def interruption_by_timestamps(
    sent_ns: Sequence[int], arrived: Sequence[tuple[int, int]]
) -> TimestampInterruption | None:
    """Service interruption by time stamps (time-stamp based reset time, RFC 6201 section 4), as a range.

    Between two neighbouring arrivals lies a gap. The path may have failed as early as just after the first of them, and
    the next packet would have shown it: so the interruption is shorter than the gap by at most the time to the next
    packet sent. When packets were lost in the gap, the path may also have healed up to one sending interval before the
    packet that showed it. Of all gaps the one is taken that exceeds the sender's own intervals most; a sender that was
    held up is so not taken for an interruption.

    :param sent_ns: moments of sending by sequence number.
    :param arrived: sequence number and moment of arrival on one clock. Order does not matter; the first copy counts.
    :returns: None with fewer than two arrivals.
    """
    first: dict[int, int] = {}
    for sequence, moment in arrived:
        if 0 <= sequence < len(sent_ns) and moment < first.get(sequence, moment + 1):
            first[sequence] = moment
    order = sorted(first.items(), key=lambda item: (item[1], item[0]))
    best: TimestampInterruption | None = None
    best_excess = 0
    for (before, start), (after, end) in itertools.pairwise(order):
        gap = end - start
        if best is not None and gap <= best_excess:
            continue
        lost = max(0, after - before - 1) if after > before else 0
        to_next = sent_ns[before + 1] - sent_ns[before] if before + 1 < len(sent_ns) else 0
        from_last = sent_ns[after] - sent_ns[after - 1] if lost else 0
        own = max((sent_ns[i + 1] - sent_ns[i] for i in range(before, after)), default=0) if lost else to_next
        if best is None or gap - own > best_excess:
            best_excess = gap - own
            best = TimestampInterruption(max(0, gap - to_next - from_last), max(0, gap), start, end, lost)
    return best


def interruption_by_frame_loss(lost: int, rate: float) -> float:
    """Service interruption by frame loss in seconds (frame-loss based reset time, RFC 6201 section 4): lost / rate.

    :param rate: packets/s of the flow or flows in which the loss was counted. The resolution is one packet: 1 / rate.
    """
    return lost / rate


def share_per_flow(arrived: Sequence[int]) -> tuple[float, ...]:
    """The part of all packets that each flow carried; zeros when nothing came."""
    total = sum(arrived)
    return tuple(number / total if total else 0.0 for number in arrived)
