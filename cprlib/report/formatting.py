"""Numbers, times and untrusted text as all reports show them: in the terminal, on the HTML pages and in Markdown."""

from __future__ import annotations

import datetime
import re
import textwrap
from collections.abc import Container, Sequence
from typing import Annotated

import msgspec

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.traffic.figures import Interruption, PerDirection
from cprlib.words import counted, printable

Moment = Annotated[str, msgspec.Meta(description="ISO 8601, UTC")]
UNKNOWN = "-"
WIDTH = 120  # columns of text for the terminal
MARK = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.INCONCLUSIVE: "?", Outcome.SKIP: "○"}
MAX_TEXT = 2000  # characters of one untrusted text
MAX_COMMAND = 1500  # characters of a command line

_MARKUP = str.maketrans(
    {character: f"\\{character}" for character in "\\|[]!*_#~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "'"}
)
_AUTOLINK = re.compile(r"(?i)(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)")
"""Where a zero-width space prevents links and mentions of GitHub's Markdown, which no backslash does."""


def wrap(line: str, indent: int = 4) -> str:
    """A line for the terminal, its continuation indented."""
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands separators; a dash when it is unknown."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def duration(value: float | None) -> str:
    """Milliseconds, with one decimal below 100."""
    return UNKNOWN if value is None else f"{value:,.{1 if abs(value) < 100 else 0}f}"


def ms_range(interruption: Interruption) -> str:
    """A range of milliseconds: ``286-288``; one figure when both ends round to the same."""
    low, high = duration(interruption.low_ms), duration(interruption.high_ms)
    if UNKNOWN in (low, high):
        return UNKNOWN
    return low if low == high else f"{low}-{high}"


def by_direction(counts: PerDirection) -> str:
    """Forward and return: ``0 / 2``."""
    return f"{number(counts.forward)} / {number(counts.return_)}"


def paired_descriptors(case: CaseEvidence) -> str:
    """Descriptors with a partner, of all that were found: ``2 of 2``."""
    if case.fds.paired is None or case.fds.unpaired is None:
        return UNKNOWN
    return f"{case.fds.paired} of {case.fds.paired + case.fds.unpaired}"


def checks_passed(case: CaseEvidence) -> str:
    """Checks that passed, of all: ``17 of 17 checks``; why a case was skipped that has none."""
    if case.skipped and not case.checks:
        return case.skip_text
    passed = sum(check.outcome == Outcome.PASS for check in case.checks)
    return f"{passed} of {counted(len(case.checks), 'check')}"


def has_figures(case: CaseEvidence) -> bool:
    """False for a case of checks, which has no figures of traffic to show."""
    counts = (case.loss, case.duplicates, case.reordered)
    return case.sent is not None or any(each != PerDirection() for each in counts)


def percent(part: int | None, whole: int | None) -> str:
    """A part of a whole: ``25.1 %``."""
    return UNKNOWN if part is None or not whole else f"{100 * part / whole:.1f} %"


def utc(time_ns: int | None) -> str | None:
    """A time since the epoch as ISO 8601 in UTC, to the millisecond."""
    if time_ns is None:
        return None
    time = datetime.datetime.fromtimestamp(time_ns / 1e9, datetime.UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def bounded(text: str) -> str:
    """Untrusted text that is safe to show: of a limited length, and printable."""
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} more characters)"
    return printable(text)


def one_line(text: str, width: int = 300) -> str:
    """Untrusted text as one line of at most ``width`` characters."""
    line = " ".join(bounded(text).split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def markdown_text(text: str, width: int = 200) -> str:
    """Untrusted text in Markdown, also in a cell of a table: one line, no bars, no markup, no links."""
    return _AUTOLINK.sub("\u200b", one_line(text, width).translate(_MARKUP))


def code_span(text: str, width: int = MAX_COMMAND) -> str:
    """Untrusted text as a code span (CommonMark 6.1), unchanged up to ``width`` characters."""
    line = one_line(text, width)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def command_span(command: str) -> str:
    """A command line as a code span, complete; a mail client might read ``<`` as markup."""
    return code_span(command.replace("<", "\u2039"))


def code_cell(text: str, width: int = 300) -> str:
    """Untrusted text as a code span in a cell of a table, where a bar would end the cell."""
    return code_span(text, width).replace("|", "\\|")


def text_table(rows: Sequence[Sequence[str]], left: Container[int]) -> list[str]:
    """Lines of a table for the terminal, with dashes below the first row, its heading.

    :param left: indexes of the columns that are aligned left.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [str.ljust if index in left else str.rjust for index in range(len(widths))]
    lines = ["  ".join(to(text, width) for to, text, width in zip(align, row, widths, strict=True)) for row in rows]
    return [lines[0].rstrip(), "  ".join("-" * width for width in widths), *(line.rstrip() for line in lines[1:])]


def markdown_row(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def seconds_of(case: CaseEvidence) -> float | None:
    """Duration of a case in s."""
    if case.started_ns is None or case.finished_ns is None:
        return None
    return round((case.finished_ns - case.started_ns) / 1e9, 3)
