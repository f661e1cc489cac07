"""The timeline of an update: delay and arrival of each packet against time, with STOP, fds sent and RESUME.

A dot is a packet that arrived, an x is a lost packet; each event has its own dash pattern and its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cprlib.evidence.case import CaseEvidence, Packets
from cprlib.report import plotting
from cprlib.report.plotting import DOT, GRID, INK, LOST, SOFT, plots
from cprlib.traffic.figures import Direction
from cprlib.update.events import Step, Who

BEFORE_MS, AFTER_MS = 250.0, 450.0  # shown before the first and after the last event
OVERVIEW_SLICES = 400
EVENT_LINES = {Step.STOP: (0, (5, 2)), Step.FDS_SENT: (0, (1, 1.5)), Step.RESUME: "solid"}
EVENT_NAMES = {Step.STOP: "STOP", Step.FDS_SENT: "fds sent", Step.RESUME: "RESUME"}


@dataclass(frozen=True, slots=True)
class Track:
    """The packets of one direction, in ms; times are relative to the zero of the timeline.

    :param sent, arrived, delay: of each packet that arrived.
    :param lost: sending times of the lost packets.
    """

    direction: Direction
    sent: list[float]
    arrived: list[float]
    delay: list[float]
    lost: list[float]


def tracks(packets: Packets, zero_ns: int) -> tuple[Track, Track]:
    """Split packets by direction; a packet that never reached the reflector is not in the return direction."""
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
            continue  # it came back, so it was not lost; when it was reflected is unknown
        add(forward, sent_us, reflected_us)
        if reflected_us is not None:
            add(back, reflected_us, returned_us)
    return forward, back


def event_times(case: CaseEvidence) -> dict[Step, int]:
    """Times in ns of STOP of the source, fds sent, and RESUME of the target, of the first update that completed.

    Where none did: the first of each that is known.
    """
    whose = {Step.STOP: (Who.SOURCE,), Step.RESUME: (Who.TARGET, Who.SOURCE)}
    known: dict[Step, list[int]] = {}
    for name in EVENT_LINES:
        events = [event for event in case.timeline if event.name == name]
        preferred = [event for who in whose.get(name, ()) for event in events if event.who == who] or events
        if preferred:
            known[name] = [event.time_ns for event in preferred]
    resumed = known.get(Step.RESUME, [0])[0]
    return {name: max((item for item in times if item <= resumed), default=times[0]) for name, times in known.items()}


def draw(case: CaseEvidence, packets: Packets) -> str:
    """Draw the timeline as SVG. Time zero is STOP, or the first packet when no QEMU stopped."""
    times_ns = event_times(case)
    zero_ns = times_ns.get(Step.STOP, packets.origin_ns)
    events = {name: (time_ns - zero_ns) / 1e6 for name, time_ns in times_ns.items()}
    both = tracks(packets, zero_ns)
    whole = _extent(both)
    shown = _window(events, whole)
    rows = {"height_ratios": [0.75, 2, 0.34, 2, 0.34], "hspace": 0.16}
    with plots(5, 1, (10.4, 6.0), gridspec_kw=rows) as (figure, axes):
        _draw_overview(axes[0], both, events, whole, shown)
        for track, delay, strip in zip(both, axes[1::2], axes[2::2], strict=True):
            _draw_delays(delay, track, shown)
            _draw_arrivals(strip, track, shown)
            for axis in (delay, strip):
                axis.set_xlim(*shown)
                _draw_events(axis, events)
        _name_events(axes[1], events, shown)
        for axis in axes[1:4]:
            axis.tick_params(labelbottom=False)
        axes[4].set_xlabel(f"milliseconds since {'STOP' if 'STOP' in events else 'the first packet'}")
        figure.align_ylabels(axes)
        return plotting.as_svg(figure, bbox_inches="tight", pad_inches=0.04)


def _extent(both: Sequence[Track]) -> tuple[float, float]:
    times = [time for track in both for times in (track.sent, track.lost, track.arrived) for time in times]
    return (min(times), max(times)) if times else (0.0, 1.0)


def _window(events: dict[Step, float], whole: tuple[float, float]) -> tuple[float, float]:
    """The span that the panels show: around the update, or the whole run when there was none."""
    if not events:
        return whole
    first, last = min(events.values()), max(events.values())
    low, high = max(whole[0], first - BEFORE_MS), min(whole[1], last + max(AFTER_MS, (last - first) * 0.75))
    return (low, high) if low < high else whole


def _draw_overview(
    axis: Any, both: Sequence[Track], events: dict[Step, float], whole: tuple[float, float], shown: tuple[float, float]
) -> None:
    """The whole run: the longest delay of each slice, the lost packets, and the span that the panels below show."""
    width = max((whole[1] - whole[0]) / OVERVIEW_SLICES, 1e-6)
    for track, color in ((both[0], DOT), (both[1], SOFT)):
        worst: dict[int, float] = {}
        for time, delay in zip(track.sent, track.delay, strict=True):
            index = int((time - whole[0]) / width)
            worst[index] = max(worst.get(index, delay), delay)
        slices = sorted(worst)
        axis.plot([whole[0] + (i + 0.5) * width for i in slices], [worst[i] for i in slices], color=color, lw=0.9)
        _draw_lost(axis, track.lost)
    if shown != whole:
        axis.axvspan(*shown, color="#e6eaee", zorder=0, lw=0)
    _draw_events(axis, events)
    axis.set_xlim(*whole)
    axis.set_ylabel("delay, ms\n(whole run)")
    axis.xaxis.tick_top()
    axis.spines["bottom"].set_visible(False)
    axis.spines["top"].set_visible(True)


def _draw_delays(axis: Any, track: Track, shown: tuple[float, float]) -> None:
    inside = [(s, d) for s, d in zip(track.sent, track.delay, strict=True) if shown[0] <= s <= shown[1]]
    delays = [delay for _, delay in inside]
    axis.scatter([sent for sent, _ in inside], delays, s=5, color=DOT, linewidths=0, rasterized=True)
    lost = [time for time in track.lost if shown[0] <= time <= shown[1]]
    _draw_lost(axis, lost)
    longest, lowest = max(delays, default=1.0), min([0.0, *delays])
    height = max(longest - lowest, 0.1)
    axis.set_ylim(lowest - 0.14 * height, longest + 0.34 * height)  # lost packets below, names of events above
    axis.set_ylabel(f"{track.direction}\ndelay, ms")
    axis.grid(axis="y", color=GRID, lw=0.6)
    axis.set_axisbelow(True)
    beyond = len(track.lost) - len(lost)
    text = f"{len(track.lost):,} lost" + (f" ({beyond:,} outside this window)" if beyond else "")
    axis.text(
        0.995, 0.93, text, transform=axis.transAxes, ha="right", va="top", weight="bold" if track.lost else "normal"
    )


def _draw_lost(axis: Any, lost: Sequence[float]) -> None:
    """An x on the lower edge for each lost packet, at its sending time: it has no delay."""
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


def _draw_arrivals(axis: Any, track: Track, shown: tuple[float, float]) -> None:
    """One tick per arrival: a gap in the strip is the service interruption."""
    inside = [time for time in track.arrived if shown[0] <= time <= shown[1]]
    ticks = axis.eventplot([inside], colors=[INK], linewidths=0.4, lineoffsets=0.5, linelengths=1.0, rasterized=True)
    ticks[0].set_snap(False)  # snapping to pixels would show gaps where there are none
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_ylabel("arrivals", rotation=0, ha="right", va="center")


def _draw_events(axis: Any, events: dict[Step, float]) -> None:
    for name, time in events.items():
        axis.axvline(time, color=INK, lw=1.0, ls=EVENT_LINES[name], zorder=4)


def _name_events(axis: Any, events: dict[Step, float], shown: tuple[float, float]) -> None:
    """Names of the events at the top of the panel, in several rows where they would overlap."""
    apart = (shown[1] - shown[0]) * 0.09
    rows: list[float] = []  # time of the last event in each row
    inside = {name: time for name, time in events.items() if shown[0] <= time <= shown[1]}
    for name, time in sorted(inside.items(), key=lambda item: item[1]):
        late = time > shown[1] - 2 * apart  # its name would leave the panel on the right
        row = next((index for index, last in enumerate(rows) if time - last >= apart), len(rows))
        rows[row : row + 1] = [time]
        axis.annotate(
            f"{EVENT_NAMES[name]} {time:+,.0f} ms" if time else EVENT_NAMES[name],
            (time, 1),
            xycoords=axis.get_xaxis_transform(),
            xytext=(-3 if late else 3, -9 - 11 * row),
            textcoords="offset points",
            ha="right" if late else "left",
            fontsize=8,
            weight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            zorder=6,
        )
