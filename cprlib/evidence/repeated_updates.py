"""Repeated updates of one guest: figures of each, and checks that nothing grows from one QEMU to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cprlib.evidence.records import Check, DescriptorRow, Outcome, UpdateFigures
from cprlib.evidence.update_checks import descriptor_count, first_times
from cprlib.traffic.per_update import StreamPart
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
    updates: Sequence[UpdateResult], parts: Sequence[StreamPart], notes: Sequence[str] = ()
) -> tuple[UpdateFigures, ...]:
    """Figures of each update.

    :param parts: of the stream, by :func:`cprlib.traffic.per_update.parts_of`; empty without traffic.
    :param notes: on each update; may be empty.
    """

    def figures(index: int, update: UpdateResult) -> UpdateFigures:
        known = UpdateFigures(
            number=index + 1,
            qemu_downtime_ms=update.downtime_ms,
            fds=descriptor_count(update),
            descriptors=update.target_after.table.count_by_kind(),
            anonymous_kib=update.target_after.anonymous_kib,
            note=notes[index] if index < len(notes) else "",
            stop_to_resume_ms=_stop_to_resume_ms(update),
        )
        if index >= len(parts):
            return known
        part = parts[index]
        return replace(
            known,
            sent=part.sent,
            loss=part.loss,
            interruption=part.interruption,
            duplicates=part.duplicates,
            reordered=part.reordered,
            traffic_after_ms=part.traffic_after_ms,
        )

    return tuple(figures(index, update) for index, update in enumerate(updates))


def _stop_to_resume_ms(update: UpdateResult) -> float | None:
    first = first_times(update)
    if "STOP" not in first or "RESUME" not in first:
        return None
    return (first["RESUME"] - first["STOP"]) / 1e6


def growth_checks(generations: Sequence[ProcessView], origin: ProcessView | None = None) -> tuple[Check, ...]:
    """Checks that descriptors and memory do not grow from update to update.

    :param generations: the targets in order, each after it had run the guest for a while.
    :param origin: the QEMU that booted the guest.
    """
    first = _first_target(origin, generations[0]) if origin else ()
    return *first, _descriptors(generations), _memory(generations)


def _first_target(origin: ProcessView, target: ProcessView) -> tuple[Check, ...]:
    """The first target, with which later ones are compared, has the NIC's descriptors of the QEMU that booted."""
    had, has = origin.table.count_by_kind(), target.table.count_by_kind()
    other = [
        f"{has.get(kind, 0)} {kind} instead of {had.get(kind, 0)}"
        for kind in NIC_KINDS
        if had.get(kind) != has.get(kind)
    ]
    expected = "as in the QEMU that booted the guest: " + ", ".join(f"{had.get(kind, 0)} {kind}" for kind in NIC_KINDS)
    outcome = Outcome.FAIL if other else Outcome.PASS
    message = f"the first target has {', '.join(other)}" if other else ""
    return (Check("descriptors-as-in-the-source", outcome, expected, ", ".join(other) or "the same", message),)


def _descriptors(generations: Sequence[ProcessView]) -> Check:
    counts = [view.table.count_by_kind() for view in generations]
    first = counts[0]
    other = {number: count for number, count in enumerate(counts, 1) if count != first}
    expected = f"the same in all {len(counts)} targets: {_count_text(first)}"
    if not other:
        return Check("descriptors-do-not-grow", Outcome.PASS, expected, f"{sum(first.values())} in each")
    number, count = next(iter(other.items()))
    kinds = sorted(kind for kind in first.keys() | count.keys() if first.get(kind, 0) != count.get(kind, 0))
    changes = ", ".join(f"{count.get(kind, 0)} {kind} instead of {first.get(kind, 0)}" for kind in kinds)
    return Check(
        "descriptors-do-not-grow",
        Outcome.FAIL,
        expected,
        f"target {number}: {_count_text(count)}",
        f"from update to update QEMU's descriptors change: target {number} has {changes} ({len(other)} targets differ)",
    )


def _count_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _memory(generations: Sequence[ProcessView]) -> Check:
    expected = f"no target has {MEMORY_SLACK_KIB // 1024} MiB more than the first one"
    known = [view.anonymous_kib for view in generations]
    sizes = [size for size in known if size is not None]
    if len(sizes) < len(known) or not sizes:
        return Check("memory-does-not-grow", Outcome.INCONCLUSIVE, expected, "RssAnon is missing from /proc/PID/status")
    observed = (
        f"{sizes[0] / 1024:.1f} MiB in the first, {sizes[-1] / 1024:.1f} in the last, {max(sizes) / 1024:.1f} at most"
    )
    if max(sizes) - sizes[0] <= MEMORY_SLACK_KIB:
        return Check("memory-does-not-grow", Outcome.PASS, expected, observed)
    return Check(
        "memory-does-not-grow", Outcome.FAIL, expected, observed, f"QEMU's own memory grows with updates: {observed}"
    )
