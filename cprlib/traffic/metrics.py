"""The metrics of the RFCs as pure functions of sequence numbers and times. A late packet is reordered, not lost.

Sequence numbers belong to one flow and are counted from 0 by its sender. ``arrived`` has them in the order of arrival,
including copies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


def missing_sequences(sent: int, arrived: Iterable[int]) -> tuple[int, ...]:
    """Packets lost one way (Type-P-One-way-Packet-Loss, RFC 7680 section 2): sent, but never arrived.

    The loss threshold Tmax (RFC 7680 section 2.3) is the time from the last packet to the end of the capture.

    :param sent: packets sent, numbered 0 to sent - 1.
    """
    seen = set(arrived)
    return tuple(sequence for sequence in range(sent) if sequence not in seen)


def duplicated_sequences(arrived: Iterable[int]) -> tuple[int, ...]:
    """The copies beyond the first of each packet (Type-P-one-way-packet-duplication, RFC 5560 section 3).

    In the order of arrival.
    """
    seen: set[int] = set()
    copies = []
    for sequence in arrived:
        if sequence in seen:
            copies.append(sequence)
        seen.add(sequence)
    return tuple(copies)


def reordered_sequences(arrived: Iterable[int]) -> tuple[int, ...]:
    """The packets that arrived after one with a higher number (Type-P-Reordered, RFC 4737 section 3).

    In the order of arrival; copies do not count (section 3.3).
    """
    highest = -1
    late = []
    for sequence in dict.fromkeys(arrived):
        if sequence < highest:
            late.append(sequence)
        else:
            highest = sequence
    return tuple(late)


@dataclass(frozen=True, slots=True)
class LossBySequence:
    """Loss in each direction by the reflector's sequence numbers, without its log.

    :param forward: packets that never arrived at the reflector, :param returning: answers that never came back.
    :param undetermined: packets missing after the last answer, lost in an unknown direction.
    """

    forward: int
    returning: int
    undetermined: int


def loss_by_sequence(sent: int, arrived: Sequence[tuple[int, int]]) -> LossBySequence:
    """One-way loss per direction (RFC 7680) from the two sequence numbers of the answers (RFC 8762 section 4.3).

    The reflector has sent max(reflector's number) + 1 answers; those whose numbers did not come back are lost. The
    other missing packets never arrived at it. This is exact if the forward path neither duplicates nor reorders
    packets; the reflector's log is always exact.

    :param arrived: sender's and reflector's sequence number of each answer.
    """
    if not arrived:
        return LossBySequence(0, 0, sent)
    highest = max(reflector for _, reflector in arrived)
    horizon = max(sender for sender, _ in arrived)
    returning = highest + 1 - len({reflector for _, reflector in arrived})
    missing_before = horizon + 1 - len({sender for sender, _ in arrived})
    return LossBySequence(max(0, missing_before - returning), max(0, returning), sent - horizon - 1)


class TimestampInterruption(NamedTuple):
    """The longest service interruption by time stamps: its length is between these two."""

    low_ns: int
    high_ns: int


def interruption_by_timestamps(
    sent_ns: Sequence[int], arrived: Sequence[tuple[int, int]]
) -> TimestampInterruption | None:
    """Service interruption by time stamps (time-stamp based reset time, RFC 6201 section 1.3), as a range.

    It lies in the gap between two consecutive arrivals. The path may have failed just before the next packet was sent,
    so the interruption is shorter than the gap by at most the time from the first of them to that packet. When packets
    were lost, the path may also have recovered up to one sending interval before the packet that arrived. The gap that
    exceeds the sender's own intervals most is used, so that a delay of the sender is not an interruption.

    :param sent_ns: times of sending by sequence number.
    :param arrived: sequence number and time of arrival on one clock, in any order; the first copy counts.
    :returns: None with fewer than two arrivals.
    """
    first: dict[int, int] = {}
    for sequence, time_ns in arrived:
        if 0 <= sequence < len(sent_ns) and time_ns < first.get(sequence, time_ns + 1):
            first[sequence] = time_ns
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
            best = TimestampInterruption(max(0, gap - to_next - from_last), max(0, gap))
    return best


def stalled_ms(sent_ns: Iterable[int], interval_ns: float, start_ns: int, end_ns: int) -> float:
    """For how long a sender with an even rate sent nothing, in ms: its machine ran something else.

    Each gap counts as far as it is longer than two sending intervals.

    :param sent_ns: times of sending, in any order.
    :param interval_ns: between two packets.
    :param start_ns, end_ns: the period to look at.
    """
    times = [start_ns, *sorted(time for time in sent_ns if start_ns < time < end_ns), end_ns]
    return sum(max(0.0, later - earlier - 2 * interval_ns) for earlier, later in itertools.pairwise(times)) / 1e6
