"""A summary of twenty lines for a pull request or a mailing list."""

from __future__ import annotations

from cprlib.report.figures import MARK, both, fds, number, one_line, span
from cprlib.report.run_report import RunReport
from cprlib.verdict.evidence import Outcome
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.traffic_rules import unexplained_packets

LINES = 20
_ORDER = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.SKIP)


def markdown_summary(report: RunReport) -> str:
    """Verdict, table and reasons in at most twenty lines; what has no room is counted, worst cases come first."""
    cases = sorted(report.cases, key=lambda case: _ORDER.index(case.outcome))
    head = [f"**{MARK[report.verdict.outcome]} {report.verdict.outcome.upper()}**: {report.sentence}", ""]
    foot = ["", *_facts(report)]
    wrong = [case for case in cases if case.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)]
    reasons = [_reason(case) for case in wrong[:4]]
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
    """Foreign text as one cell: no line ends, no bars, no markup."""
    return one_line(text, 200).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


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


def _reason(judged: JudgedCase) -> str:
    texts = [f"{finding.about}: {finding.text}" for finding in judged.verdict.reasons]
    more = f" (and {len(texts) - 1} more)" if texts[1:] else ""
    again = f"; again: `{_cell(judged.evidence.reproduce)}`" if judged.evidence.reproduce else ""
    return f"- {_cell(judged.evidence.id)}: {_cell(texts[0]) if texts else 'no reason'}{more}{again}"


def _facts(report: RunReport) -> list[str]:
    environment = report.environment
    qemus = ", ".join(f"{qemu.version or qemu.path} ({qemu.sha256[:12] or 'no hash'})" for qemu in report.qemus)
    place = " ".join(part for part in (environment.mode, environment.engine) if part) or "place not known"
    lines = [
        f"QEMU {_cell(qemus) or 'not known'}; policy {_cell(report.policy.name)}; {place}, "
        f"kernel {environment.kernel}; cprlib {environment.cprlib} {environment.commit}".rstrip()
    ]
    if report.command:
        lines.append(f"Run with `{_cell(report.command)}`")
    return lines
