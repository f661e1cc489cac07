"""The look of all plots, and the plots of a case's history; matplotlib is imported when a plot is drawn.

Plots read in grey and in print: shapes and line patterns say what colours say.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

INK, SOFT, DOT, LOST, GRID = "#1b1f24", "#8a929b", "#2f5d8a", "#b3261e", "#e3e7eb"
PIXELS_PER_INCH = 200  # of rasterised dots and ticks: thousands of vectors make a page large and slow

SETTINGS = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "svg.fonttype": "path",
    "svg.hashsalt": "cprlib",
    "savefig.dpi": PIXELS_PER_INCH,
}

Values = Sequence[float | None]


@contextlib.contextmanager
def plots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a figure with the look of the pages and its axes; it is closed at the end.

    The import is lazy because it takes a second.

    :param size: width and height, in inches.
    :param options: of ``pyplot.subplots()``.
    """
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    with matplotlib.rc_context(SETTINGS):
        figure, axes = pyplot.subplots(rows, columns, figsize=size, **options)
        try:
            yield figure, axes
        finally:
            pyplot.close(figure)


def as_svg(figure: Any, **options: Any) -> str:
    """A figure as SVG, the same bytes each time.

    :param options: of ``Figure.savefig()``.
    """
    output = io.StringIO()
    figure.savefig(output, format="svg", metadata={"Date": None}, **options)
    return output.getvalue()


def image_address(svg: str) -> Markup:
    """An SVG as a data URL, so that a page needs no other file."""
    return Markup("data:image/svg+xml;base64,") + base64.b64encode(svg.encode()).decode()


@dataclass(frozen=True, slots=True)
class TrendLine:
    """One figure of a case in each run; None where it is unknown."""

    values: Values
    marker: str = "o"
    dashes: str = "-"
    colour: str = DOT


def draw_trends(panels: Sequence[tuple[str, Sequence[TrendLine]]], bad: Sequence[bool], breaks: Sequence[int]) -> str:
    """Small plots side by side, as SVG: figures of one case from run to run.

    :param panels: title and lines of each plot.
    :param bad: by run: it did not pass, and is drawn as an x.
    :param breaks: indexes of runs before which machine or QEMU changed: a dotted line.
    """
    margins = {"wspace": 0.2, "left": 0.045, "right": 0.995, "top": 0.84, "bottom": 0.06}
    with plots(1, len(panels), (10.4, 1.35), gridspec_kw=margins) as (figure, axes):
        for axis, (title, lines) in zip(axes, panels, strict=True):
            _draw_trend(axis, title, lines, bad, breaks)
        return as_svg(figure)  # no tight box: panels of all cases align


def _draw_trend(axis: Any, title: str, lines: Sequence[TrendLine], bad: Sequence[bool], breaks: Sequence[int]) -> None:
    for index in breaks:
        axis.axvline(index - 0.5, color=INK, lw=0.8, ls=(0, (1, 2)))
    highest = 0.0
    for line in lines:
        known = [(index, value) for index, value in enumerate(line.values) if value is not None]
        highest = max([highest, *(value for _, value in known)])
        face = "none" if line.marker == "s" else line.colour
        look = {"ls": line.dashes, "lw": 0.8, "color": line.colour, "marker": line.marker, "ms": 3.2, "mew": 0.8}
        axis.plot([index for index, _ in known], [value for _, value in known], mfc=face, **look)
        failures = [point for point in known if bad[point[0]]]
        if failures:
            axis.plot(*zip(*failures, strict=True), ls="none", marker="x", ms=6, mew=1.4, color=LOST)
    if not any(value is not None for line in lines for value in line.values):
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", color=SOFT)
    axis.set_title(title, loc="left", fontsize=8, color=SOFT, pad=3)
    axis.set_ylim(-0.08 * (highest or 1), 1.15 * (highest or 1))
    axis.set_yticks([0, highest] if highest else [0])
    axis.set_yticklabels(["0", f"{highest:,.0f}" if highest >= 10 else f"{highest:.2g}"] if highest else ["0"])
    axis.set_xlim(-0.7, max(len(bad) - 0.3, 0.7))
    axis.set_xticks([])
    axis.grid(axis="y", color=GRID, lw=0.6)
