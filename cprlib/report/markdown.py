"""A summary of twenty lines for a pull request or a mailing list."""

from __future__ import annotations

import re

from cprlib.evidence.case import Outcome
from cprlib.report.formatting import MARK, both, fds, number, one_line, span
from cprlib.report.reproduce import again
from cprlib.report.run_report import RunReport, utc
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.traffic_rules import unexplained_packets

LINES = 20
LONGEST_COMMAND = 1500  # characters; longer ones are no command lines of ours
_MARKUP = str.maketrans(
    {character: f"\\{character}" for character in "\\|[]!*_#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "'"}
)
_ORDER = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.SKIP)


def markdown_summary(report: RunReport) -> str:
    """Verdict, table and reasons in at most twenty lines; what has no room is counted, worst cases come first."""
    cases = sorted(report.cases, key=lambda case: _ORDER.index(case.outcome))
    head = [f"**{MARK[report.verdict.outcome]} {report.verdict.outcome.upper()}**: {report.sentence}", ""]
    foot = ["", *_facts(report)]
    wrong = [case for case in cases if case.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)]
    reasons = [_reason(case, report.command) for case in wrong[:4]]
    if reasons:
        reasons.insert(0, "")
    room = LINES - len(head) - len(foot) - len(reasons) - 2
    shown = cases if len(cases) <= room else cases[: room - 1]
    table = [
        "| | case | sent | lost fwd / ret | dup | reord | interruption ms fwd / ret | fds paired | unexplained |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
        *(_row(case) for case in shown),
    ]
    if len(shown) < len(cases):
        table.append(f"| | and {len(cases) - len(shown)} more | | | | | | | |")
    return "\n".join([*head, *table, *reasons, *foot]) + "\n"


def _cell(text: str) -> str:
    """Foreign text as one cell: no line ends, no bars, no markup, no links."""
    return one_line(text, 200).translate(_MARKUP)


def _code(text: str) -> str:
    """A command line as a code span, to the letter: Markdown changes nothing in one, and nothing is cut off."""
    line = one_line(text, LONGEST_COMMAND).replace("<", "\u2039")  # no file of ours has one; markup in a mail might
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _row(judged: JudgedCase) -> str:
    case = judged.evidence
    cells = (
        f"{MARK[judged.outcome]} {judged.outcome}",
        _cell(case.id),
        number(case.sent),
        both(case.loss),
        both(case.duplicates),
        both(case.reordered),
        f"{span(case.interruption.forward)} / {span(case.interruption.return_)}",
        fds(case),
        number(unexplained_packets(case)),
    )
    return f"| {' | '.join(cells)} |"


def _reason(judged: JudgedCase, command: str) -> str:
    texts = [f"{finding.about}: {finding.text}" for finding in judged.verdict.reasons]
    more = f" (and {len(texts) - 1} more)" if texts[1:] else ""
    repeat = again(command, judged.evidence.reproduce)
    return f"- {_cell(judged.evidence.id)}: {_cell(texts[0]) if texts else 'no reason'}{more}" + (
        f"; again: {_code(repeat)}" if repeat else ""
    )


def _facts(report: RunReport) -> list[str]:
    environment = report.environment
    qemus = ", ".join(f"{qemu.version or qemu.path} ({qemu.sha256[:12] or 'no hash'})" for qemu in report.qemus)
    place = " ".join(part for part in (environment.mode, environment.engine) if part) or "place not known"
    when = (utc(report.started_ns) or "")[:16].replace("T", " ")
    machine = f"{environment.cpu or 'CPU not known'}, {number(environment.cores)} cores, kernel {environment.kernel}"
    lines = [
        f"QEMU {_cell(qemus) or 'not known'}; policy {_cell(report.policy.name)}; cprlib {environment.cprlib}"
        + (f" at {environment.commit}" if environment.commit else ""),
        f"{place}; {_cell(machine)}" + (f"; {when} UTC" if when else ""),
    ]
    if report.command:
        lines.append(f"Run with {_code(report.command)}")
    return lines
