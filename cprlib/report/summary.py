"""A run as plain text: a table for the terminal, and twenty lines of Markdown for a pull request or a mailing list."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.report.formatting import (
    MARK,
    by_direction,
    duration,
    ms_range,
    number,
    one_line,
    paired_descriptors,
    utc,
)
from cprlib.report.run_report import RunReport
from cprlib.verdict.findings import worst_first
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.traffic_rules import unexplained_packets

TABLE_WIDTH = 120
MARKDOWN_LINES = 20
MAX_COMMAND = 1500  # characters

Figure = tuple[str, Callable[[CaseEvidence], str]]
"""A column: its heading, and its text for a case. Pairs are forward / return."""

_COUNTS: tuple[Figure, ...] = (
    ("lost", lambda case: by_direction(case.loss)),
    ("dup", lambda case: by_direction(case.duplicates)),
    ("reord", lambda case: by_direction(case.reordered)),
    ("interruption ms", lambda case: " / ".join(map(ms_range, (case.interruption.forward, case.interruption.return_)))),
)
_SENT: Figure = ("sent", lambda case: number(case.sent))
_UNEXPLAINED: Figure = ("unexplained", lambda case: number(unexplained_packets(case)))
_TABLE_FIGURES: tuple[Figure, ...] = (
    ("mechanism", lambda case: case.mechanism.value),
    _SENT,
    *_COUNTS,
    ("budget", lambda case: duration(case.budget.longest_pause_ms if case.budget else None)),
    ("fds", paired_descriptors),
    _UNEXPLAINED,
)
_MARKDOWN_FIGURES: tuple[Figure, ...] = (
    _SENT,
    *((f"{heading} fwd / ret", text) for heading, text in _COUNTS),
    ("fds paired", paired_descriptors),
    _UNEXPLAINED,
)
_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "\\|[]!*_#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "'"}
)


def result_table(report: RunReport) -> str:
    """The verdict, one line per case, and the reasons of cases that did not pass. Pairs are forward / return."""
    rows = [("verdict", "case", *(heading for heading, _ in _TABLE_FIGURES))]
    for case in report.cases:
        figures = (text(case.evidence) for _, text in _TABLE_FIGURES)
        rows.append((case.outcome.value, one_line(case.evidence.id), *figures))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [str.ljust] * 3 + [str.rjust] * (len(widths) - 3)
    lines = ["  ".join(to(text, width) for to, text, width in zip(align, row, widths, strict=True)) for row in rows]
    lines = [line.rstrip() for line in lines]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append("")
    for case in report.cases:
        if case.outcome != Outcome.PASS:
            lines += _table_reasons(report, case)
    lines += [
        _wrap(f"  repeated: {one_line(case.evidence.id)}: at first inconclusive: {one_line(text)}")
        for case in report.cases
        for text in case.evidence.first_try
    ]
    for problem in report.problems:  # also of a run that fails: what is missing is not known to be good
        lines.append(_wrap(f"  run: {one_line(problem)}"))
    for finding in report.verdict.reasons:
        if finding.about not in {case.evidence.id for case in report.cases} and finding.text not in report.problems:
            lines.append(_wrap(f"  {one_line(finding.about)}: {one_line(finding.text)}"))
    lines.append(
        f"verdict: {report.verdict.outcome.upper()} ({report.sentence}; policy {one_line(report.policy.name)})"
    )
    return "\n".join(lines) + "\n"


def _table_reasons(report: RunReport, case: JudgedCase) -> list[str]:
    lines = [f"{case.outcome}: {one_line(case.evidence.id)}"]
    lines += [_wrap(f"  {one_line(finding.about)}: {one_line(finding.text)}") for finding in case.verdict.reasons]
    if case.evidence.reproduce and case.outcome != Outcome.SKIP:
        lines.append(f"  run again: {one_line(report.rerun_command(case.evidence), MAX_COMMAND)}")
    return [*lines, ""]


def _wrap(line: str) -> str:
    return textwrap.fill(line, TABLE_WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def markdown_summary(report: RunReport) -> str:
    """Verdict, table and reasons in at most 20 lines: the worst cases first, the number of those left out."""
    cases = worst_first(report.cases)
    head = [f"**{MARK[report.verdict.outcome]} {report.verdict.outcome.upper()}**: {report.sentence}", ""]
    foot = ["", *_run_facts(report)]
    bad = [case for case in cases if case.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)]
    reasons = [_markdown_reason(report, case) for case in bad[:4]]
    if reasons:
        reasons.insert(0, "")
    room = MARKDOWN_LINES - len(head) - len(foot) - len(reasons) - 2
    shown = cases if len(cases) <= room else cases[: room - 1]
    table = [
        _markdown_row("", "case", *(heading for heading, _ in _MARKDOWN_FIGURES)),
        f"|---|---|{'--:|' * len(_MARKDOWN_FIGURES)}",
        *(
            _markdown_row(
                f"{MARK[case.outcome]} {case.outcome}",
                _escape(case.evidence.id),
                *(text(case.evidence) for _, text in _MARKDOWN_FIGURES),
            )
            for case in shown
        ),
    ]
    if len(shown) < len(cases):
        table.append(_markdown_row("", f"and {len(cases) - len(shown)} more", *[""] * len(_MARKDOWN_FIGURES)))
    return "\n".join([*head, *table, *reasons, *foot]) + "\n"


def _escape(text: str) -> str:
    """Untrusted text in one table cell: one line, no bars, no markup, no links."""
    return one_line(text, 200).translate(_ESCAPES)


def _code_span(text: str) -> str:
    """A command line as a code span (CommonMark 6.1), complete and unchanged except for ``<``."""
    line = one_line(text, MAX_COMMAND).replace("<", "\u2039")  # a mail client might read it as markup
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _markdown_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_reason(report: RunReport, judged: JudgedCase) -> str:
    texts = [f"{finding.about}: {finding.text}" for finding in judged.verdict.reasons]
    more = f" (and {len(texts) - 1} more)" if texts[1:] else ""
    command = report.rerun_command(judged.evidence)
    return f"- {_escape(judged.evidence.id)}: {_escape(texts[0]) if texts else 'no reason'}{more}" + (
        f"; run again: {_code_span(command)}" if command else ""
    )


def _run_facts(report: RunReport) -> list[str]:
    environment = report.environment
    qemus = ", ".join(f"{qemu.version or qemu.path} ({qemu.sha256[:12] or 'no hash'})" for qemu in report.qemus)
    backend = " ".join(filter(None, (environment.mode, environment.engine))) or "unknown backend"
    when = (utc(report.started_ns) or "")[:16].replace("T", " ")
    machine = f"{environment.cpu or 'unknown CPU'}, {number(environment.cores)} cores, kernel {environment.kernel}"
    lines = [
        f"QEMU {_escape(qemus) or 'unknown'}; policy {_escape(report.policy.name)}; cprlib {environment.cprlib}"
        + (f" at {environment.commit}" if environment.commit else ""),
        f"{backend}; {_escape(machine)}" + (f"; {when} UTC" if when else ""),
    ]
    if report.command:
        lines.append(f"Command: {_code_span(report.command)}")
    return lines
