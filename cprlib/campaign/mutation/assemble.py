"""From a proof's folder to its matrix: the stored cells, judged by today's manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cprlib import files
from cprlib.campaign.mutation.cell import CellRecord
from cprlib.campaign.mutation.matrix import Cell, Matrix, Row
from cprlib.campaign.mutation.matrix_html import write_matrix_html
from cprlib.campaign.mutation.matrix_json import write_matrix_json
from cprlib.campaign.mutation.matrix_markdown import matrix_markdown
from cprlib.campaign.mutation.outcome import Policies, judge_folder
from cprlib.campaign.mutation.pool import BuiltRow, PlannedRow
from cprlib.campaign.mutation.proof import CELLS
from cprlib.errors import InstrumentError

SUMMARY_FILE = "matrix.md"


def read_row(folder: Path, planned: PlannedRow, built: BuiltRow, policies: Policies) -> Row:
    """A row with the cells that are stored of it.

    :param folder: of the proof.
    """
    cells: dict[str, Cell] = {}
    for test in planned.tests if built.qemu else ():
        name = f"{CELLS}/{planned.build.folder}/{test.id}"
        try:
            record = CellRecord.read(folder / name)
        except InstrumentError:
            continue  # it never ran
        judged = judge_folder(folder / name, policies)
        cells[test.id] = Cell(test.id, judged, name, record.lab_lost, record.changed)
    return Row(
        planned.build,
        tuple(test.id for test in planned.tests),
        cells,
        str(built.qemu.path) if built.qemu else "",
        built.sha256,
        built.problem,
    )


def read_rows(
    folder: Path, plan: Sequence[PlannedRow], built: Mapping[str, BuiltRow], policies: Policies
) -> tuple[Row, ...]:
    """All rows of a plan."""
    nothing = BuiltRow(None, problem="it was not come to")
    return tuple(read_row(folder, row, built.get(row.build.folder, nothing), policies) for row in plan)


def notes_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """What is worth knowing beside the verdict."""
    changed = sum(cell.changed for row in rows for cell in row.cells.values())
    lost = sum(cell.lab_lost for row in rows for cell in row.cells.values())
    return (
        *((f"{changed} cells ran while the project was edited; --resume runs them anew",) if changed else ()),
        *((f"{lost} labs died and were replaced",) if lost else ()),
    )


def write_matrix(matrix: Matrix) -> None:
    """Write matrix.json, matrix.html and matrix.md into the proof's folder.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    write_matrix_html(matrix)
    files.write_text(matrix.folder / SUMMARY_FILE, matrix_markdown(matrix), mode=0o600)
    write_matrix_json(matrix)
