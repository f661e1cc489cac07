"""The picture of a soak: each resource against time, with its trend, warm-up and sessions."""

from __future__ import annotations

import io
from typing import Any

from cprlib.campaign.soak.resources import RESOURCES, Resource
from cprlib.campaign.soak.result import SoakResult, trend_words
from cprlib.campaign.soak.trend import warm_up
from cprlib.evidence.terms import Outcome
from cprlib.report.plotting import DOT, INK, LOST, SOFT, style

COLUMNS = 2


def draw_soak(result: SoakResult) -> str:
    """All resources as SVG. Hollow dots are warm-up, the line is the slope found, dotted lines part sessions."""
    rows = -(-len(RESOURCES) // COLUMNS)
    with style() as pyplot:
        figure, axes = pyplot.subplots(
            rows, COLUMNS, figsize=(10.4, 1.75 * rows), sharex=True, gridspec_kw={"hspace": 0.42, "wspace": 0.16}
        )
        try:
            for axis, resource in zip(axes.flat, RESOURCES, strict=False):
                _resource(axis, result, resource)
            for axis in axes[-1]:
                axis.set_xlabel("minutes of work")
            output = io.StringIO()
            figure.savefig(output, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None})
        finally:
            pyplot.close(figure)
    return output.getvalue()


def _resource(axis: Any, result: SoakResult, resource: Resource) -> None:
    seen = result.trends[resource.name]
    grows = seen.outcome == Outcome.FAIL
    every: list[float] = []
    for series in result.series(resource):
        skipped = warm_up(len(series))
        minutes, values = [at / 60 for at, _ in series], [value for _, value in series]
        every += values
        axis.plot(minutes, values, color=SOFT, lw=0.6, zorder=1)
        axis.scatter(minutes[:skipped], values[:skipped], s=11, facecolors="white", edgecolors=SOFT, lw=0.8, zorder=2)
        axis.scatter(minutes[skipped:], values[skipped:], s=11, color=DOT, lw=0, zorder=3)
        if seen.per_hour is not None and len(values) - skipped > 1:
            _line(axis, minutes[skipped:], values[skipped:], seen.per_hour / 60, LOST if grows else INK)
    for session, start in _starts(result).items():
        if session:
            axis.axvline(start / 60, color=SOFT, lw=0.8, ls=(0, (1, 2)))
    low, high = (min(every), max(every)) if every else (0.0, 1.0)
    room = max((high - low) * 0.15, resource.size * 0.1, 1.0 if resource.unit != "MiB" else 0.0)
    axis.set_ylim(low - room, high + room)
    axis.set_title(
        f"{resource.title}: {trend_words(seen)}", loc="left", fontsize=8.5, weight="bold" if grows else "normal"
    )
    axis.set_ylabel(resource.unit if resource.unit == "MiB" else "")
    axis.yaxis.get_major_locator().set_params(integer=resource.unit != "MiB")
    axis.grid(axis="y", color="#e3e7eb", lw=0.6)
    axis.set_axisbelow(True)
    axis.ticklabel_format(axis="y", useOffset=False)


def _line(axis: Any, minutes: list[float], values: list[float], per_minute: float, color: str) -> None:
    """The slope through the middle of what was looked at."""
    middle = sorted(value - per_minute * at for at, value in zip(minutes, values, strict=True))[len(values) // 2]
    ends = [minutes[0], minutes[-1]]
    axis.plot(ends, [middle + per_minute * at for at in ends], color=color, lw=1.3, zorder=4)


def _starts(result: SoakResult) -> dict[int, float]:
    """Where each session begins, in seconds of work."""
    starts: dict[int, float] = {}
    for sample in result.past.samples:
        starts.setdefault(sample.session, sample.at_s)
    return starts
