"""Several updates in one stream: the stream is divided halfway between them, and each part has its own figures."""

from __future__ import annotations

import bisect
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cprlib.traffic import metrics
from cprlib.traffic.figures import InterruptionPerDirection, PerDirection
from cprlib.traffic.ledger import Moments
from cprlib.traffic.result import DirectionResult, FlowResult, TrafficResult


@dataclass(frozen=True, slots=True)
class StreamPart:
    """Figures of the packets that were sent nearer to one update than to any other.

    :param sent: packets.
    :param loss, duplicates, reordered: of these; not known without the reflector's log.
    :param traffic_after_ms: from RESUME until an answer had arrived on each flow; None when one has none, or no RESUME.
    """

    sent: int
    loss: PerDirection
    interruption: InterruptionPerDirection
    duplicates: PerDirection = field(default_factory=PerDirection)
    reordered: PerDirection = field(default_factory=PerDirection)
    traffic_after_ms: float | None = None


def borders(updates: Sequence[Moments]) -> list[tuple[int, int]]:
    """First and last time of sending that belong to each update, CLOCK_REALTIME in ns.

    The border is halfway between RESUME (without it, STOP) of one update and STOP of the next.
    """
    if not updates:
        return []
    ends = [(item.stop_ns or 0, item.resume_ns or item.stop_ns or 0) for item in updates]
    between = [(resumed + stopped) // 2 for (_, resumed), (stopped, _) in itertools.pairwise(ends)]
    return list(zip([0, *between], [*between, sys.maxsize], strict=True))


def parts_of(result: TrafficResult, updates: Sequence[Moments]) -> tuple[StreamPart, ...]:
    """The figures of the part of the stream around each update."""
    return tuple(
        _part(result, first, last, update.resume_ns)
        for update, (first, last) in zip(updates, borders(updates), strict=True)
    )


def _part(result: TrafficResult, first_ns: int, last_ns: int, resume_ns: int | None) -> StreamPart:
    cut = [
        (flow, range(bisect.bisect_left(flow.sent_ns, first_ns), bisect.bisect_left(flow.sent_ns, last_ns)))
        for flow in result.flows
    ]
    forward = [_interruption(flow.sent_ns, flow.reflected_ns, chosen) for flow, chosen in cut]
    returning = [_interruption(flow.sent_ns, flow.returned_ns, chosen) for flow, chosen in cut]
    loss = _count(cut, lambda direction: direction.missing)
    return StreamPart(
        sent=sum(len(chosen) for _, chosen in cut),
        loss=loss,
        interruption=InterruptionPerDirection(
            result.longest_interruption(forward, loss.forward or 0),
            result.longest_interruption(returning, loss.return_ or 0),
        ),
        duplicates=_count(cut, lambda direction: direction.copies),
        reordered=_count(cut, lambda direction: direction.late),
        traffic_after_ms=_traffic_after_ms(result, resume_ns),
    )


def _count(
    cut: Sequence[tuple[FlowResult, range]], sequences: Callable[[DirectionResult], Sequence[int] | None]
) -> PerDirection:
    """How many of the packets listed are in the chosen ranges; unknown without the reflector's log."""
    if any(sequences(flow.forward) is None for flow, _ in cut):
        return PerDirection()
    return PerDirection(
        sum(sequence in chosen for flow, chosen in cut for sequence in sequences(flow.forward) or ()),
        sum(sequence in chosen for flow, chosen in cut for sequence in sequences(flow.returning) or ()),
    )


def _traffic_after_ms(result: TrafficResult, resume_ns: int | None) -> float | None:
    """The longest time from RESUME to the first answer on a flow, no matter when its packet was sent."""
    if resume_ns is None:
        return None
    first = []
    for flow in result.flows:
        answers = [time_ns for time_ns in flow.returned_ns if time_ns is not None and time_ns >= resume_ns]
        if not answers:
            return None
        first.append(min(answers))
    return (max(first) - resume_ns) / 1e6 if first else None


def _interruption(
    sent_ns: Sequence[int], arrived_ns: Sequence[int | None], chosen: range
) -> metrics.TimestampInterruption | None:
    part = slice(chosen.start, chosen.stop)
    arrived = [(number, time_ns) for number, time_ns in enumerate(arrived_ns[part]) if time_ns is not None]
    return metrics.interruption_by_timestamps(sent_ns[part], arrived)
