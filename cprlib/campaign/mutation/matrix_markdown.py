"""A summary of at most forty lines for a pull request or a mailing list."""

from __future__ import annotations

from cprlib.campaign.mutation.matrix import Matrix, Row
from cprlib.evidence.terms import Outcome
from cprlib.report.formatting import MARK, one_line

LINES = 40
_ORDER = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


def matrix_markdown(matrix: Matrix) -> str:
    """Verdict, a line for each build, and why; what has no room is counted, and the worst come first."""
    rows = sorted(matrix.rows, key=lambda row: _ORDER.index(row.outcome))
    head = [f"**{MARK[matrix.outcome]} {matrix.outcome.upper()}**: {matrix.sentence}", ""]
    wrong = [(row, reason) for row in rows for reason in row.reasons]
    reasons = [f"- {_cell(row.build.name)}: {_cell(reason.text)}" for row, reason in wrong[:8]]
    if len(wrong) > len(reasons):
        reasons.append(f"- and {len(wrong) - len(reasons)} more")
    foot = ["", _facts(matrix), *([f"Run with `{_cell(matrix.command)}`"] if matrix.command else [])]
    room = LINES - len(head) - 2 - bool(reasons) - len(reasons) - len(foot)
    shown = rows if len(rows) <= room else rows[: room - 1]
    table = ["| | build | detected by | s | message |", "|---|---|---|--:|---|", *(_row(row) for row in shown)]
    if len(shown) < len(rows):
        table.append(f"| | and {len(rows) - len(shown)} more | | | |")
    return "\n".join([*head, *table, *([""] if reasons else []), *reasons, *foot]) + "\n"


def _row(row: Row) -> str:
    first = row.detections[0] if row.detections else None
    seconds = f"{first.judged.seconds:.1f}" if first and first.judged.seconds is not None else "-"
    more = f" and {len(row.detections) - 1} more" if row.detections[1:] else ""
    by = f"{_cell(first.test)}{more}" if first else "-"
    message = _cell(row.message(first), 120) if first else "-"
    return f"| {MARK[row.outcome]} | {_cell(row.build.name)} | {by} | {seconds} | {message} |"


def _facts(matrix: Matrix) -> str:
    scope = "every test on every build" if matrix.whole else "on each variant the tests that must catch it"
    place = f"lab {matrix.engine}" if matrix.engine else "native"
    environment = matrix.environment
    facts = f"QEMU {matrix.base}, {scope}; {place}; cprlib {environment.cprlib} {environment.commit}".rstrip()
    return facts + (f"; {matrix.lab_lost} labs died and were replaced" if matrix.lab_lost else "")


def _cell(text: str, width: int = 200) -> str:
    """Foreign text as one cell: no line ends, no bars, no markup."""
    line = one_line(text, width).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("[", "\\[")
