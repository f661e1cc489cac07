"""Repeated updates of one guest: figures of each, and checks that nothing grows from one QEMU to the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cprlib.evidence.records import Check, DescriptorRow, Outcome, UpdateFigures
from cprlib.evidence.update_checks import descriptor_count, first_times
from cprlib.traffic.evaluation import StreamPart
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

    :param parts: of the stream, by :func:`cprlib.traffic.evaluation.parts_of`; empty without traffic.
    :param notes: on each update; may be empty.
    """

    def figures(index: int, update: UpdateResult) -> UpdateFigures:
        part = parts[index] if index < len(parts) else UpdateFigures(0)
        first = first_times(update)
        stop_ns, resume_ns = first.get("STOP"), first.get("RESUME")
        return UpdateFigures(
            number=index + 1,
            sent=part.sent,
            loss=part.loss,
            interruption=part.interruption,
            qemu_downtime_ms=update.downtime_ms,
            fds=descriptor_count(update),
            descriptors=update.target_after.table.count_by_kind(),
            anonymous_kib=update.target_after.anonymous_kib,
            note=notes[index] if index < len(notes) else "",
            duplicates=part.duplicates,
            reordered=part.reordered,
            stop_to_resume_ms=None if stop_ns is None or resume_ns is None else (resume_ns - stop_ns) / 1e6,
            traffic_after_ms=part.traffic_after_ms,
        )

    return tuple(figures(index, update) for index, update in enumerate(updates))


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
