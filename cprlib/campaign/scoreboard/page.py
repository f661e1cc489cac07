"""docs/scoreboard.md: the figures of all rows, how they were measured, and what was not."""

from __future__ import annotations

import datetime
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from cprlib.campaign.scoreboard.figures import Measured, PacketCounts
from cprlib.campaign.scoreboard.plan import UPDATES, ScoreboardRequest
from cprlib.report.environment import Environment
from cprlib.report.formatting import UNKNOWN, code_cell, duration, markdown_row, markdown_text, number, one_line
from cprlib.update.mechanism import Mechanism
from cprlib.words import counted

PAGE_FILE = "scoreboard.md"
COLUMNS = 100
BUSY = 0.3  # load average per core from which a machine counts as busy
GROUPS = {
    "stock-": "Stock QEMUs",
    "series-": "The series",
    "without-": "The series without one of its patches",
    "stand-in-": "Mechanism `local`",
}
FOLDERS = re.compile(r"(?<!\S)/(?:[^\s/]+/)*")  # of an absolute path
HEADINGS = (
    *("QEMU", "mechanism", "NIC", "updates", "lost forward", "lost return"),
    *("interruption forward, ms", "interruption return, ms", "same open files", "faults survived", "remarks"),
)
HEAD = """\
# Scoreboard

What an update costs the guest's network, by QEMU, mechanism and NIC. This page is generated:

    {command}

| | |
| --- | --- |
| begun | {begun} |
| machine | {machine} |
| guests | {guests} |
| load before | {load} |
| measured | {runs} per row, {updates} of each, one queue pair, default rate and packet size |

**lost**: packets per update, mean (most in one update), into the guest (forward) and back (return).
Updates with a pause longer than the tap queue can buffer are left out, because then the queue
overflows whatever QEMU does. **interruption**: median (shortest to longest) of all updates, by time
stamps ([RFC 6201](glossary.md#measuring)). **same open files**: NIC descriptors of the target that
are the same open file as in the source (kcmp(2)), of all NIC descriptors. **faults survived**:
injected faults after which the right QEMU runs the guest with all its state, of all ([Updates that
fail on purpose](failed-updates.md)).

Notes on this and earlier runs: [evidence/scoreboard.md](evidence/scoreboard.md).
"""
NOT_MEASURED = (
    "Other rates, packet sizes, queue counts, guests and hosts than those above; TCG is slower than KVM.",
    "`fd-share` with vhost: a vhost device has one owner.",
    "Faults with other mechanisms than `cpr`: the tests inject them into updates with `cpr=on`.",
)


def scoreboard_page(rows: Sequence[Measured], request: ScoreboardRequest, environment: Environment) -> str:
    """The page.

    :param environment: the machine that measured.
    """
    begun = datetime.datetime.fromtimestamp(request.started_ns / 1e9, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = HEAD.format(
        command=one_line(request.command),
        begun=f"{begun}, commit {environment.commit or 'unknown'}",
        machine=", ".join(filter(None, (environment.machine, environment.distribution))),
        guests=f"{environment.accelerator.upper()}, {environment.mode} {environment.engine}".rstrip(),
        load=_load(request.load, environment.cores),
        runs=counted(request.runs, "guest"),
        updates=counted(UPDATES, "update"),
    )
    for prefix, title in GROUPS.items():
        members = [row for row in rows if row.row.qemu.name.startswith(prefix)]
        if members:
            text += f"\n## {title}\n\n" + "".join(f"{line}\n" for line in _table(members))
    text += "\n## Not measured\n\n"
    return text + "".join(f"{_item(item)}\n" for item in (*_absent(rows, request), *NOT_MEASURED))


def _item(text: str) -> str:
    return textwrap.fill(f"- {text}", COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _table(rows: Iterable[Measured]) -> Iterator[str]:
    yield markdown_row(*HEADINGS)
    yield markdown_row(*["---"] * len(HEADINGS))
    yield from (markdown_row(*_cells(row)) for row in rows)


def _cells(row: Measured) -> list[str]:
    identity = row.identity
    version = f"{row.version}: {row.row.qemu.title}" if row.version else row.row.qemu.title
    return [
        markdown_text(version),
        f"`{row.row.mechanism}`" + (f", mode `{row.row.mode}`" if row.row.mode else ""),
        "vhost" if row.row.vhost else "tap",
        str(len(row.updates)),
        _lost(row.lost("forward")),
        _lost(row.lost("return_")),
        _spread(row.interruption("forward")),
        _spread(row.interruption("return_")),
        f"{identity[0]} of {identity[1]}" if identity else UNKNOWN,
        f"{row.survived} of {row.faults}" if row.faults else UNKNOWN,
        "; ".join(_remarks(row)),
    ]


def _lost(counts: PacketCounts | None) -> str:
    if counts is None:
        return UNKNOWN
    mean = counts.total / counts.updates
    return "0" if not counts.total else f"{number(mean, 1 if mean < 10 else 0)} ({number(counts.most)})"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return UNKNOWN
    return f"{duration(median(values))} ({duration(values[0])} to {duration(values[-1])})"


def _remarks(row: Measured) -> Iterator[str]:
    if row.problem:
        yield f"not measured: {_without_folders(row.problem, 160)}"
    if row.discarded:
        yield f"{counted(len(row.discarded), 'guest')} discarded ({_without_folders(row.discarded[0], 100)})"
    if left_out := len(row.updates) - len(row.counted):
        yield f"packets of {counted(left_out, 'update')} left out: pause longer than the queue"
    if row.failures:
        yield f"failed: {', '.join(code_cell(name, 40) for name in row.failures[:3])}"
    if row.inconclusive:
        yield f"{counted(row.inconclusive, 'fault')} inconclusive"
    if row.row.qemu.shown_by and row.updates and not _shows_defect(row):
        yield f"not visible in these cases; shown by {', '.join(f'`{name}`' for name in row.row.qemu.shown_by)}"


def _without_folders(text: str, width: int) -> str:
    """Paths of this machine are no part of a page for others: only the names of the files stay."""
    return markdown_text(FOLDERS.sub("", text), width)


def _shows_defect(row: Measured) -> bool:
    """Whether the figures of a series without one of its patches are worse than those that the series must have."""
    lost = [row.lost("forward"), row.lost("return_")]
    identity = row.identity
    return (
        any(item is not None and item.total for item in lost)
        or bool(row.failures)
        or row.survived + row.inconclusive < row.faults
        or (identity is not None and identity[0] < identity[1])
    )


def _load(load: float | None, cores: int | None) -> str:
    if load is None:
        return "unknown"
    busy = load > BUSY * (cores or 1)
    return f"{load:.1f}" + (": the machine was busy, a quiet one has shorter interruptions" if busy else "")


def _absent(rows: Sequence[Measured], request: ScoreboardRequest) -> Iterator[str]:
    if request.only:
        yield f"All rows but those that match {', '.join(f'`{name}`' for name in request.only)}."
    seen = {row.row.mechanism for row in rows if row.updates}
    missing = [item for item in Mechanism if item not in (Mechanism.NONE, *seen)]
    if missing:
        yield f"Mechanism {', '.join(f'`{name}`' for name in missing)}: no QEMU here was updated by it."
    if nothing := [row.row.name for row in rows if not row.updates]:
        yield f"Rows without a valid figure: {', '.join(f'`{name}`' for name in nothing)}."
