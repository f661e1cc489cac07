"""The picture of an update: delay and arrival of each packet against time, with the moments of the update.

Shapes tell what colours tell, so that it reads in grey and in print: dots are packets that arrived, crosses are packets
that did not, and each moment has its own dash pattern and its name.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cprlib.evidence.case import CaseEvidence, Direction, Who
from cprlib.evidence.packets import Packets
from cprlib.report.plotting import DOT, INK, LOST, SOFT, style

BEFORE_MS, AFTER_MS = 250.0, 450.0  # what is shown around the update
MARKED = {"STOP": (0, (5, 2)), "FDS_SENT": (0, (1, 1.5)), "RESUME": "solid"}
WORDS = {"STOP": "STOP", "FDS_SENT": "fds sent", "RESUME": "RESUME"}

Moments = list[float]


@dataclass(frozen=True, slots=True)
class Track:
    """One direction: packets that arrived (moment of sending, of arrival, delay) and moments of sending of the lost.

    All in ms; moments are relative to :attr:`Picture.zero_ns`.
    """

    direction: Direction
    sent: Moments
    arrived: Moments
    delay: Moments
    lost: Moments


def tracks(packets: Packets, zero_ns: int) -> tuple[Track, Track]:
    """Both directions; a packet that never came to the reflector has no part in the return direction."""
    shift = (packets.origin_ns - zero_ns) / 1e6
    forward = Track(Direction.FORWARD, [], [], [], [])
    back = Track(Direction.RETURN, [], [], [], [])

    def add(track: Track, sent_us: int, arrived_us: int | None) -> None:
        if arrived_us is None:
            track.lost.append(sent_us / 1000 + shift)
            return
        track.sent.append(sent_us / 1000 + shift)
        track.arrived.append(arrived_us / 1000 + shift)
        track.delay.append((arrived_us - sent_us) / 1000)

    for sent_us, reflected_us, returned_us in zip(
        packets.sent_us, packets.reflected_us, packets.returned_us, strict=True
    ):
        if reflected_us is None and returned_us is not None:
            continue  # it came back, so it was not lost, but nobody knows when it was reflected
        add(forward, sent_us, reflected_us)
        if reflected_us is not None:
            add(back, reflected_us, returned_us)
    return forward, back


def marked_moments(case: CaseEvidence) -> dict[str, int]:
    """STOP of the source, fds sent, RESUME of the target: those that are known, the first of each."""
    whose = {"STOP": (Who.SOURCE,), "RESUME": (Who.TARGET, Who.SOURCE)}
    found: dict[str, int] = {}
    for name in MARKED:
        events = [event for event in case.timeline if event.name == name]
        preferred = [event for who in whose.get(name, ()) for event in events if event.who == who]
        if preferred or events:
            found[name] = (preferred or events)[0].time_ns
    return found


def draw(case: CaseEvidence, packets: Packets) -> str:
    """The picture as SVG. Time zero is STOP, or the first packet when nothing was stopped."""
    moments_ns = marked_moments(case)
    zero_ns = moments_ns.get("STOP", packets.origin_ns)
    moments = {name: (moment - zero_ns) / 1e6 for name, moment in moments_ns.items()}
    both = tracks(packets, zero_ns)
    whole = _extent(both)
    shown = _window(moments, whole)
    with style() as pyplot:
        figure, axes = pyplot.subplots(
            5, 1, figsize=(10.4, 6.0), gridspec_kw={"height_ratios": [0.75, 2, 0.34, 2, 0.34], "hspace": 0.16}
        )
        try:
            _overview(axes[0], both, moments, whole, shown)
            for track, delay, strip in ((both[0], axes[1], axes[2]), (both[1], axes[3], axes[4])):
                _delays(delay, track, shown)
                _arrivals(strip, track, shown)
                for axis in (delay, strip):
                    axis.set_xlim(*shown)
                    _moments(axis, moments)
            _names(axes[1], moments, shown)
            for axis in axes[1:4]:
                axis.tick_params(labelbottom=False)
            since = "STOP" if "STOP" in moments else "the first packet"
            axes[4].set_xlabel(f"milliseconds since {since}")
            figure.align_ylabels(axes)
            output = io.StringIO()
            figure.savefig(output, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None})
        finally:
            pyplot.close(figure)
    return output.getvalue()


def _extent(both: Sequence[Track]) -> tuple[float, float]:
    every = [moment for track in both for moments in (track.sent, track.lost, track.arrived) for moment in moments]
    return (min(every), max(every)) if every else (0.0, 1.0)


def _window(moments: dict[str, float], whole: tuple[float, float]) -> tuple[float, float]:
    """What the panels show: the update and what surrounds it, or everything when there was none."""
    if not moments:
        return whole
    after = max(AFTER_MS, (max(moments.values()) - min(moments.values())) * 0.75)
    low, high = max(whole[0], min(moments.values()) - BEFORE_MS), min(whole[1], max(moments.values()) + after)
    return (low, high) if low < high else whole


def _overview(
    axis: Any, both: Sequence[Track], moments: dict[str, float], whole: tuple[float, float], shown: tuple[float, float]
) -> None:
    """The whole run: the longest delay in each of some hundred slices, the lost, and which part is shown below."""
    slices = 400
    width = max((whole[1] - whole[0]) / slices, 1e-6)
    for track, color in ((both[0], DOT), (both[1], SOFT)):
        worst: dict[int, float] = {}
        for moment, delay in zip(track.sent, track.delay, strict=True):
            place = int((moment - whole[0]) / width)
            worst[place] = max(worst.get(place, delay), delay)
        places = sorted(worst)
        axis.plot([whole[0] + (p + 0.5) * width for p in places], [worst[p] for p in places], color=color, lw=0.9)
        _crosses(axis, track.lost)
    if shown != whole:
        axis.axvspan(*shown, color="#e6eaee", zorder=0, lw=0)
    _moments(axis, moments)
    axis.set_xlim(*whole)
    axis.set_ylabel("delay, ms\n(whole run)")
    axis.xaxis.tick_top()
    axis.spines["bottom"].set_visible(False)
    axis.spines["top"].set_visible(True)


def _delays(axis: Any, track: Track, shown: tuple[float, float]) -> None:
    inside = [(s, d) for s, d in zip(track.sent, track.delay, strict=True) if shown[0] <= s <= shown[1]]
    axis.scatter(
        [moment for moment, _ in inside],
        [delay for _, delay in inside],
        s=5,
        color=DOT,
        linewidths=0,
        rasterized=True,
    )
    _crosses(axis, [moment for moment in track.lost if shown[0] <= moment <= shown[1]])
    longest, shortest = (
        max((delay for _, delay in inside), default=1.0),
        min((delay for _, delay in inside), default=0.0),
    )
    height = max(longest - min(shortest, 0.0), 0.1)
    axis.set_ylim(min(shortest, 0.0) - 0.14 * height, longest + 0.34 * height)  # crosses below, names of moments above
    axis.set_ylabel(f"{track.direction}\ndelay, ms")
    axis.grid(axis="y", color="#e3e7eb", lw=0.6)
    axis.set_axisbelow(True)
    beyond = len(track.lost) - sum(shown[0] <= moment <= shown[1] for moment in track.lost)
    text = f"{len(track.lost):,} lost" + (f" ({beyond:,} outside this window)" if beyond else "")
    axis.text(
        0.995, 0.93, text, transform=axis.transAxes, ha="right", va="top", weight="bold" if track.lost else "normal"
    )


def _crosses(axis: Any, lost: Sequence[float]) -> None:
    """Lost packets, by the moment of sending, along the lower edge: they have no delay."""
    if lost:
        axis.scatter(
            lost,
            [0.07] * len(lost),
            transform=axis.get_xaxis_transform(),
            marker="x",
            s=42,
            color=LOST,
            linewidths=1.6,
            zorder=5,
            rasterized=len(lost) > 500,
        )


def _arrivals(axis: Any, track: Track, shown: tuple[float, float]) -> None:
    """One tick per arrival: a gap in the strip is the service interruption."""
    inside = [moment for moment in track.arrived if shown[0] <= moment <= shown[1]]
    ticks = axis.eventplot([inside], colors=[INK], linewidths=0.4, lineoffsets=0.5, linelengths=1.0, rasterized=True)
    ticks[0].set_snap(False)  # snapped to pixels they would show gaps where there are none
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_ylabel("arrivals", rotation=0, ha="right", va="center")


def _moments(axis: Any, moments: dict[str, float]) -> None:
    for name, moment in moments.items():
        axis.axvline(moment, color=INK, lw=1.0, ls=MARKED[name], zorder=4)


def _names(axis: Any, moments: dict[str, float], shown: tuple[float, float]) -> None:
    """Names of the moments above the panel, each in a row of its own where they would touch."""
    apart = (shown[1] - shown[0]) * 0.09
    rows: list[float] = []
    inside = {name: moment for name, moment in moments.items() if shown[0] <= moment <= shown[1]}
    for name, moment in sorted(inside.items(), key=lambda item: item[1]):
        late = moment > shown[1] - 2 * apart  # its name would leave the panel on the right
        row = next((number for number, end in enumerate(rows) if moment - end >= apart), len(rows))
        rows[row : row + 1] = [moment]
        axis.annotate(
            f"{WORDS[name]} {moment:+,.0f} ms" if moment else WORDS[name],
            (moment, 1),
            xycoords=axis.get_xaxis_transform(),
            xytext=(-3 if late else 3, -9 - 11 * row),
            textcoords="offset points",
            ha="right" if late else "left",
            fontsize=8,
            weight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            zorder=6,
        )
