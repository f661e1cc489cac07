"""matrix.html: one page that works offline, prints, and reads without colour; each cell links to its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cprlib import files
from cprlib.campaign.mutation.matrix import Cell, Matrix, Row
from cprlib.campaign.mutation.matrix_text import sign
from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.evidence.terms import Outcome
from cprlib.report.formatting import utc
from cprlib.report.html import HTML_FILE, template_engine

PAGE_FILE = "matrix.html"
WORDS = {
    CellOutcome.DETECTED: "detected",
    CellOutcome.PASSED: "passed",
    CellOutcome.INCONCLUSIVE: "inconclusive",
    CellOutcome.SKIPPED: "skipped",
    CellOutcome.CRASHED: "the harness crashed",
}


@dataclass(frozen=True, slots=True)
class CellView:
    """A cell as the page shows it.

    :param sign: one character, ``!`` behind it where it is not as it must be.
    :param kind: class of its style.
    :param link: of its evidence; empty when it never ran.
    """

    test: str
    sign: str
    kind: str
    title: str
    link: str
    cell: Cell | None
    must: bool


@dataclass(frozen=True, slots=True)
class RowView:
    """A row with its cells in the order of the columns."""

    row: Row
    cells: tuple[CellView, ...]

    @property
    def anchor(self) -> str:
        """Id of its section."""
        return self.row.build.folder.replace("/", "-")

    @property
    def loud(self) -> tuple[CellView, ...]:
        """Cells worth a line: all that did not pass, and those that had to catch it."""
        return tuple(
            view
            for view in self.cells
            if view.must or (view.cell is not None and view.cell.judged.outcome != CellOutcome.PASSED)
        )


def render(matrix: Matrix) -> str:
    """The page."""
    rows = [_row(matrix, row) for row in matrix.rows]
    template = template_engine(Path(__file__).parent / "templates").get_template("matrix.html")
    return template.render(
        matrix=matrix, rows=rows, Outcome=Outcome, started=utc(matrix.started_ns), finished=utc(matrix.finished_ns)
    )


def write_matrix_html(matrix: Matrix) -> Path:
    """Write matrix.html into the proof's folder, whole or not at all.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    path = matrix.folder / PAGE_FILE
    files.write_text(path, render(matrix), mode=0o600)
    return path


def _row(matrix: Matrix, row: Row) -> RowView:
    return RowView(row, tuple(_cell(matrix, row, test) for test in matrix.tests))


def _cell(matrix: Matrix, row: Row, test: str) -> CellView:
    cell = row.cells.get(test)
    must = row.build.must(test)
    shown = sign(row, cell, test).strip()
    if cell is None:
        return CellView(test, shown, "none" if test not in row.wanted else "bad", f"{test}: not run", "", None, must)
    took = f" after {cell.judged.seconds:.1f} s" if cell.judged.seconds is not None else ""
    title = f"{test}: {WORDS[cell.judged.outcome]}{took}{'; this test must catch it' if must else ''}"
    kind = "bad" if "!" in shown else cell.judged.outcome.value
    page = f"/{HTML_FILE}" if (matrix.folder / cell.folder / HTML_FILE).exists() else "/"
    return CellView(test, shown, kind, title, quote(cell.folder) + page, cell, must)
