"""The matrix as plain text for the terminal: builds as rows, tests as numbered columns with a legend.

Where there are too many columns the grid is left out: the lines below it say the same, build by build.
"""

from __future__ import annotations

import textwrap

from cprlib.campaign.mutation.matrix import Cell, Matrix, Row
from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.evidence.terms import Outcome
from cprlib.report.formatting import one_line

WIDTH = 120
WIDEST_GRID = 160
SIGN = {
    CellOutcome.DETECTED: "d",
    CellOutcome.PASSED: ".",
    CellOutcome.INCONCLUSIVE: "?",
    CellOutcome.SKIPPED: "s",
    CellOutcome.CRASHED: "x",
}
WRONG = "!"
LEGEND = (
    "D detected by a test that must, with the right message   d detected   . passed   ? inconclusive   s skipped",
    "x harness crashed   ! not as it must be (why is said below)   (blank) not run",
)


def sign(row: Row, cell: Cell | None, test: str) -> str:
    """One cell in a character; ``!`` behind it when it is not as the variant's manifest says, or a false alarm."""
    variant = row.build.variant
    must = row.build.must(test)
    if cell is None:
        return WRONG if must else ""
    outcome = cell.judged.outcome
    if variant is None:
        return SIGN[outcome] + (WRONG if outcome == CellOutcome.DETECTED else "")
    if must and cell.judged.matches(variant.message):
        return "D"
    return SIGN[outcome] + (WRONG if must else "")


def matrix_text(matrix: Matrix) -> str:
    """The matrix where it is narrow enough, then a line or two for each build, and the verdict."""
    lines: list[str] = []
    name_width = max((len(row.build.name) for row in matrix.rows), default=0)
    width = name_width + 2 + 3 * len(matrix.tests)
    if width <= WIDEST_GRID:
        lines += _grid(matrix, name_width)
    for row in matrix.rows:
        lines += _row(row)
    lines += ["", *(one_line(f"note: {note}") for note in matrix.notes)]
    lines.append(f"verdict: {matrix.outcome.upper()} ({matrix.sentence})")
    return "\n".join(lines) + "\n"


def _grid(matrix: Matrix, name_width: int) -> list[str]:
    numbers = "".join(f"{number:>3}" for number in range(1, len(matrix.tests) + 1))
    lines = [f"{'':{name_width}}  {numbers}".rstrip()]
    for row in matrix.rows:
        signs = "".join(f"{sign(row, row.cells.get(test), test)[-1:]:>3}" for test in matrix.tests)
        lines.append(f"{one_line(row.build.name):{name_width}}  {signs}".rstrip())
    lines.append("")
    lines += [f"{number:>4}  {one_line(test)}" for number, test in enumerate(matrix.tests, 1)]
    return [*lines, "", *LEGEND, ""]


def _row(row: Row) -> list[str]:
    word = {Outcome.PASS: "ok  ", Outcome.FAIL: "FAIL", Outcome.INCONCLUSIVE: "?   "}[row.outcome]
    lines = []
    if row.build.variant:
        lines.append(f"{word}  {one_line(row.build.name)}: {one_line(row.build.variant.subject)}")
        for cell in row.detections[:1]:
            seconds = f" after {cell.judged.seconds:.1f} s" if cell.judged.seconds is not None else ""
            lines.append(_wrap(f"      detected by {one_line(cell.test)}{seconds}: {one_line(row.message(cell))}"))
        others = [cell.test for cell in row.detections[1:]]
        if others:
            lines.append(_wrap(f"      also by {', '.join(map(one_line, others))}"))
    else:
        quiet = sum(cell.judged.outcome == CellOutcome.PASSED for cell in row.cells.values())
        lines.append(f"{word}  {one_line(row.build.name)}: {quiet} of {len(row.wanted)} tests passed")
    lines += [_wrap(f"      {reason.outcome}: {one_line(reason.text)}") for reason in row.reasons]
    return lines


def _wrap(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="        ", break_on_hyphens=False)
