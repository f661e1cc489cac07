"""Repeated updates of one guest: figures of each, and checks that nothing grows from one QEMU to the next.

A stream with several updates is divided halfway between them, and each part has its own figures.
"""

from __future__ import annotations

import bisect
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from cprlib.evidence.records import Check, DescriptorRow, Outcome, UpdateFigures
from cprlib.evidence.update_checks import descriptor_count
from cprlib.traffic.figures import InterruptionPerDirection, PerDirection
from cprlib.traffic.ledger import GuestStop
from cprlib.traffic.metrics import TimestampInterruption, interruption_by_timestamps
from cprlib.traffic.result import DirectionResult, FlowResult, TrafficResult
from cprlib.update.results import ProcessView, UpdateResult

NIC_KINDS = ("eventfd", "tap", "vhost")
MEMORY_SLACK_KIB = 16 * 1024
"""Memory that a later target may have beyond the first one's: TCG's translation buffer (48 MiB) fills while a QEMU
runs, and targets run for different times."""


def numbered_check(check: Check, number: int) -> Check:
    """The check of an update with the update's number in its texts; the first update has no number."""
    if number == 1:
        return check
    prefix = f"update {number}: "
    return replace(check, observed=prefix + check.observed, message=prefix + check.message if check.message else "")


def numbered_row(row: DescriptorRow, number: int) -> DescriptorRow:
    """The descriptor of an update with the update's number; as :func:`numbered_check`."""
    if number == 1:
        return row
    return replace(row, note=f"update {number}{': ' if row.note else ''}{row.note}")


def figures_of(
    updates: Sequence[UpdateResult], parts: Sequence[UpdateFigures], notes: Sequence[str] = ()
) -> tuple[UpdateFigures, ...]:
    """Figures of each update.

    :param parts: those of the stream, by :func:`parts_of`; empty without traffic.
    :param notes: on each update; may be empty.
    """

    def figures(index: int, update: UpdateResult) -> UpdateFigures:
        return replace(
            parts[index] if index < len(parts) else UpdateFigures(index + 1),
            qemu_downtime_ms=update.downtime_ms,
            fds=descriptor_count(update),
            descriptors=update.target_after.table.count_by_kind(),
            anonymous_kib=update.target_after.anonymous_kib,
            note=notes[index] if index < len(notes) else "",
            stop_to_resume_ms=None if update.pause_ns is None else update.pause_ns / 1e6,
        )

    return tuple(figures(index, update) for index, update in enumerate(updates))


def borders(updates: Sequence[GuestStop]) -> list[tuple[int, int]]:
    """First and last time of sending that belong to each update, CLOCK_REALTIME in ns.

    The border is halfway between RESUME (without it, STOP) of one update and STOP of the next.
    """
    if not updates:
        return []
    ends = [(item.stop_ns or 0, item.resume_ns or item.stop_ns or 0) for item in updates]
    between = [(resumed + stopped) // 2 for (_, resumed), (stopped, _) in itertools.pairwise(ends)]
    return list(zip([0, *between], [*between, sys.maxsize], strict=True))


def parts_of(result: TrafficResult, updates: Sequence[GuestStop]) -> tuple[UpdateFigures, ...]:
    """The figures of the part of the stream around each update."""
    return tuple(
        _part(number, result, first, last, update.resume_ns)
        for number, (update, (first, last)) in enumerate(zip(updates, borders(updates), strict=True), 1)
    )


def _part(number: int, result: TrafficResult, first_ns: int, last_ns: int, resume_ns: int | None) -> UpdateFigures:
    cut = [
        (flow, range(bisect.bisect_left(flow.sent_ns, first_ns), bisect.bisect_left(flow.sent_ns, last_ns)))
        for flow in result.flows
    ]
    forward = [_interruption(flow.sent_ns, flow.reflected_ns, chosen) for flow, chosen in cut]
    returning = [_interruption(flow.sent_ns, flow.returned_ns, chosen) for flow, chosen in cut]
    loss = _count(cut, lambda direction: direction.missing)
    return UpdateFigures(
        number,
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
) -> TimestampInterruption | None:
    part = slice(chosen.start, chosen.stop)
    arrived = [(number, time_ns) for number, time_ns in enumerate(arrived_ns[part]) if time_ns is not None]
    return interruption_by_timestamps(sent_ns[part], arrived)


def growth_checks(generations: Sequence[ProcessView], origin: ProcessView | None = None) -> tuple[Check, ...]:
    """Checks that descriptors and memory do not grow from update to update.

    :param generations: the targets in order, each after it had run the guest for a while.
    :param origin: the QEMU that booted the guest.
    """
    counts = [view.table.count_by_kind() for view in generations]
    first = (_first_target(origin.table.count_by_kind(), counts[0]),) if origin else ()
    return *first, _descriptors(counts), _memory([view.anonymous_kib for view in generations])


def _differences(has: dict[str, int], had: dict[str, int], kinds: Iterable[str]) -> str:
    differing = (kind for kind in kinds if has.get(kind, 0) != had.get(kind, 0))
    return ", ".join(f"{has.get(kind, 0)} {kind} instead of {had.get(kind, 0)}" for kind in differing)


def _count_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _first_target(had: dict[str, int], has: dict[str, int]) -> Check:
    """The first target, with which later ones are compared, has the NIC's descriptors of the QEMU that booted."""
    other = _differences(has, had, NIC_KINDS)
    expected = f"as in the QEMU that booted the guest: {_count_text({kind: had.get(kind, 0) for kind in NIC_KINDS})}"
    message = f"the first target has {other}"
    return Check.of("descriptors-as-in-the-source", not other, expected, other or "the same", message)


def _descriptors(counts: Sequence[dict[str, int]]) -> Check:
    first = counts[0]
    other = [(number, count) for number, count in enumerate(counts, 1) if count != first]
    expected = f"the same in all {len(counts)} targets: {_count_text(first)}"
    if not other:
        return Check("descriptors-do-not-grow", Outcome.PASS, expected, f"{sum(first.values())} in each")
    number, count = other[0]
    changes = f"target {number} has {_differences(count, first, sorted(first.keys() | count.keys()))}"
    return Check(
        "descriptors-do-not-grow",
        Outcome.FAIL,
        expected,
        f"target {number}: {_count_text(count)}",
        f"from update to update QEMU's descriptors change: {changes} ({len(other)} targets differ)",
    )


def _memory(known_kib: Sequence[int | None]) -> Check:
    name, expected = "memory-does-not-grow", f"no target has {MEMORY_SLACK_KIB // 1024} MiB more than the first one"
    sizes = [size for size in known_kib if size is not None]
    if len(sizes) < len(known_kib) or not sizes:
        return Check(name, Outcome.INCONCLUSIVE, expected, "RssAnon is missing from /proc/PID/status")
    first, last, most = (f"{size / 1024:.1f}" for size in (sizes[0], sizes[-1], max(sizes)))
    observed = f"{first} MiB in the first, {last} in the last, {most} at most"
    message = f"QEMU's own memory grows with updates: {observed}"
    return Check.of(name, max(sizes) - sizes[0] <= MEMORY_SLACK_KIB, expected, observed, message)
