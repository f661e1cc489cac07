"""Small pictures of one case's history: interruption, loss and duration from run to run.

They read in grey and in print: forward is a filled dot on a full line, return an open square on a dashed one, a run
that did not pass is a cross. A dotted line stands between runs of different machines or QEMUs: what is left of it is
not to be compared with what is right of it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from cprlib.evidence.case import Outcome
from cprlib.report.history import Figures
from cprlib.report.plotting import DOT, INK, LOST, SOFT, style

PLACE = {"wspace": 0.2, "left": 0.045, "right": 0.995, "top": 0.84, "bottom": 0.06}

Values = Sequence[float | None]


def draw_history(figures: Sequence[Figures | None], breaks: Sequence[int]) -> str:
    """Three panels side by side as SVG.

    :param figures: of the case in each run, the oldest first; None for a run without it.
    :param breaks: places of runs before which machine or QEMU changed.
    """
    forward = [one.interruption[0] if one else None for one in figures]
    back = [one.interruption[1] if one else None for one in figures]
    lost = [float(one.lost) if one and one.lost is not None else None for one in figures]
    seconds = [one.seconds if one else None for one in figures]
    bad = [bool(one and one.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)) for one in figures]
    with style() as pyplot:
        figure, axes = pyplot.subplots(1, 3, figsize=(10.4, 1.35), gridspec_kw=PLACE)
        try:
            for axis, title, series in (
                (axes[0], "interruption, ms", ((back, "s", "--", SOFT), (forward, "o", "-", DOT))),
                (axes[1], "packets lost", ((lost, "o", "-", DOT),)),
                (axes[2], "case took, s", ((seconds, "o", "-", DOT),)),
            ):
                _panel(axis, title, series, bad, breaks)
            output = io.StringIO()
            figure.savefig(output, format="svg", metadata={"Date": None})  # no tight box: panels of all cases line up
        finally:
            pyplot.close(figure)
    return output.getvalue()


def _panel(
    axis: Any, title: str, series: Sequence[tuple[Values, str, str, str]], bad: Sequence[bool], breaks: Sequence[int]
) -> None:
    count = len(bad)
    for place in breaks:
        axis.axvline(place - 0.5, color=INK, lw=0.8, ls=(0, (1, 2)))
    highest = 0.0
    for values, marker, dashes, colour in series:
        places = [place for place, value in enumerate(values) if value is not None]
        known = [value for value in values if value is not None]
        highest = max([highest, *known])
        face = "none" if marker == "s" else colour
        axis.plot(places, known, ls=dashes, lw=0.8, color=colour, marker=marker, ms=3.2, mfc=face, mew=0.8)
        crosses = [(place, value) for place, value in zip(places, known, strict=True) if bad[place]]
        if crosses:
            axis.plot(*zip(*crosses, strict=True), ls="none", marker="x", ms=6, mew=1.4, color=LOST)
    if not any(value is not None for values, *_ in series for value in values):
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", color=SOFT)
    axis.set_title(title, loc="left", fontsize=8, color=SOFT, pad=3)
    axis.set_ylim(-0.08 * (highest or 1), 1.15 * (highest or 1))
    axis.set_yticks([0, highest] if highest else [0])
    axis.set_yticklabels(["0", f"{highest:,.0f}" if highest >= 10 else f"{highest:.2g}"] if highest else ["0"])
    axis.set_xlim(-0.7, max(count - 0.3, 0.7))
    axis.set_xticks([])
    axis.grid(axis="y", color="#e3e7eb", lw=0.6)
