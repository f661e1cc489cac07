"""What the pages and tables of prove, soak and compare have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from markupsafe import Markup

from cprlib import files
from cprlib.codec import dump_json, encode
from cprlib.report import plotting
from cprlib.report.formatting import text_table
from cprlib.report.html import HTML_FILE
from cprlib.report.plotting import GRID, image_address, plots
from cprlib.report.schema import SchemaFile

Item = TypeVar("Item")
TEMPLATES = Path(__file__).parent / "templates"

write_page = functools.partial(files.write_text, mode=0o600)
"""Write a page or table, complete or not at all, readable by its owner alone; as :func:`cprlib.files.write_text`."""


def write_document(folder: Path, schema: SchemaFile, document: object) -> None:
    """Validate and write a session's JSON file, complete or not at all, readable by its owner alone.

    :param document: the record that the schema describes.
    :raises InstrumentError: it does not fit its types.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    schema.check(encode(document))
    write_page(folder / f"{schema.name}.json", dump_json(document))


def evidence_link(top: Path, folder: str) -> str:
    """Relative address of a job's report, or of its folder where it has none; empty where it has no folder.

    :param folder: of the job, below ``top``.
    """
    if not (top / folder).is_dir():
        return ""
    return f"{quote(folder)}/{HTML_FILE if (top / folder / HTML_FILE).exists() else ''}"


def picture(
    items: Sequence[Item], columns: int, height: float, draw: Callable[[Any, Item], None], **layout: Any
) -> Markup:
    """A picture with a panel for each item, as the address of an SVG image, so that a page needs no other file.

    :param height: of a row of panels, inches.
    :param draw: draws an item into its axes.
    :param layout: arguments of ``pyplot.subplots``.
    """
    rows = -(-len(items) // columns)
    with plots(rows, columns, (10.4, height * rows), squeeze=False, **layout) as (figure, axes):
        for axis in axes.flat[len(items) :]:
            axis.axis("off")
        for axis, item in zip(axes.flat, items, strict=False):
            draw(axis, item)
            axis.grid(axis="y", color=GRID, lw=0.6)
            axis.set_axisbelow(True)
        return image_address(plotting.as_svg(figure, bbox_inches="tight", pad_inches=0.04))


def indented_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first and the last column are aligned left, the others right."""
    return [f"  {line}" for line in text_table((headings, *rows), (0, len(headings) - 1))]
