"""The result of a run as plain text for the terminal."""

from __future__ import annotations

import textwrap

from cprlib.evidence.case import Outcome
from cprlib.report.formatting import both, duration, fds, number, one_line, span
from cprlib.report.reproduce import again
from cprlib.report.run_report import RunReport
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.traffic_rules import unexplained_packets

HEADINGS = (
    "verdict",
    "case",
    "mechanism",
    "sent",
    "lost",
    "dup",
    "reord",
    "interruption ms",
    "budget",
    "fds",
    "unexpl.",
)
WIDTH = 120


def result_table(report: RunReport) -> str:
    """The verdict, one line per case, and the reasons of those that did not pass. Pairs are forward / return."""
    rows = [HEADINGS, *(_row(case) for case in report.cases)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(_cell(cell, widths[i], i) for i, cell in enumerate(row)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append("")
    for case in report.cases:
        if case.outcome != Outcome.PASS:
            lines += _reasons(case, report.command)
    for problem in report.problems:  # also of a run that fails: what is missing is not known to be good
        lines.append(_wrap(f"  run: {one_line(problem)}"))
    for finding in report.verdict.reasons:
        if finding.about not in {case.evidence.id for case in report.cases} and finding.text not in report.problems:
            lines.append(_wrap(f"  {one_line(finding.about)}: {one_line(finding.text)}"))
    lines.append(
        f"verdict: {report.verdict.outcome.upper()} ({report.sentence}; policy {one_line(report.policy.name)})"
    )
    return "\n".join(lines) + "\n"


def _cell(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < 3 else text.rjust(width)


def _row(judged: JudgedCase) -> tuple[str, ...]:
    case = judged.evidence
    interruption = f"{span(case.interruption.forward)} / {span(case.interruption.return_)}"
    return (
        judged.outcome.value,
        one_line(case.id),
        case.mechanism.value,
        number(case.sent),
        both(case.loss),
        both(case.duplicates),
        both(case.reordered),
        interruption,
        duration(case.budget.longest_pause_ms if case.budget else None),
        fds(case),
        number(unexplained_packets(case)),
    )


def _reasons(case: JudgedCase, command: str) -> list[str]:
    lines = [f"{case.outcome}: {one_line(case.evidence.id)}"]
    lines += [_wrap(f"  {one_line(finding.about)}: {one_line(finding.text)}") for finding in case.verdict.reasons]
    if case.evidence.reproduce and case.outcome != Outcome.SKIP:
        lines.append(f"  again: {one_line(again(command, case.evidence.reproduce), 1500)}")
    return [*lines, ""]


def _wrap(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
