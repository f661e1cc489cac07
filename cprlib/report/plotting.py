"""The look of all pictures, and matplotlib, which is imported when something is drawn."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

INK, SOFT, DOT, LOST = "#1b1f24", "#8a929b", "#2f5d8a", "#b3261e"
PIXELS_PER_INCH = 200  # of dots and ticks: thousands of vectors would make the page large and slow

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


@contextlib.contextmanager
def style() -> Iterator[Any]:
    """pyplot with the page's look; matplotlib is imported late because that takes a second."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    with matplotlib.rc_context(SETTINGS):
        yield pyplot


def image_address(svg: str) -> Markup:
    """A picture as the address of an image, so that a page needs no other file."""
    return Markup("data:image/svg+xml;base64,") + base64.b64encode(svg.encode()).decode()
