"""The picture of a comparison: every chain's value, A and B of a round side by side. Shapes tell what colours tell."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from cprlib.campaign.compare.findings import DurationResult
from cprlib.report.plotting import DOT, INK, SOFT, style

COLUMNS = 3


def draw(results: Sequence[DurationResult], paired: bool) -> str:
    """One panel for each metric, as SVG; hollow circles are A's chains, filled squares B's."""
    rows = math.ceil(len(results) / COLUMNS)
    with style() as pyplot:
        figure, axes = pyplot.subplots(
            rows, COLUMNS, figsize=(10.4, 2.35 * rows), squeeze=False, gridspec_kw={"hspace": 0.62, "wspace": 0.24}
        )
        try:
            panels = axes.flatten()
            for panel, result in zip(panels, results, strict=False):
                _panel(panel, result, paired)
            for panel in panels[len(results) :]:
                panel.axis("off")
            output = io.StringIO()
            figure.savefig(output, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None})
        finally:
            pyplot.close(figure)
    return output.getvalue()


def _panel(axis: Any, result: DurationResult, paired: bool) -> None:
    first = list(range(1, len(result.a_values) + 1))
    second = list(range(1, len(result.b_values) + 1))
    if paired:
        axis.vlines(first, result.a_values, result.b_values, color=SOFT, lw=0.8, zorder=1)
    else:
        second = [len(first) + 1 + place for place in second]
    axis.scatter(first, result.a_values, s=22, facecolors="white", edgecolors=INK, linewidths=1.1, zorder=3, label="A")
    axis.scatter(second, result.b_values, s=20, color=DOT, marker="s", linewidths=0, zorder=2, label="B")
    for value, dashes in ((result.a, "solid"), (result.b, (0, (4, 2)))):
        if value is not None:
            axis.axhline(value, color=INK if dashes == "solid" else DOT, lw=0.8, ls=dashes, zorder=0)
    top = max((*result.a_values, *result.b_values), default=1.0)
    axis.set_ylim(0, top * 1.12)
    ratio = "" if result.ratio is None else f"   B/A {result.ratio:.2f}"
    axis.set_title(f"{result.metric.label}{ratio}\n{result.change.value}", fontsize=8.5, loc="left", color=INK)
    axis.set_ylabel("ms")
    axis.set_xlabel("round" if paired else "guests of A, then of B")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(axis="y", color="#e3e7eb", lw=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="lower right", fontsize=7.5, frameon=False, ncols=2, handletextpad=0.1, borderaxespad=0.1)
