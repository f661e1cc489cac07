"""The guest's clock against the host's, from the four time stamps of each test packet.

T1 and T4 are on the host's clock, T2 and T3 on the guest's. No packet arrives before it is sent, so each packet bounds
the offset (guest minus host): ``T3 - T4 <= offset <= T2 - T1`` (the same time stamps as in RFC 5905 section 8). Many
packets together narrow the bounds to the delay of the fastest. A guest's clock may stop while its virtual CPUs are
stopped; an update is then a *step* of the offset. It is where the bounds contradict each other; the clock before and
after it is fitted separately.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cprlib.traffic.packet_records import Arrival

WINDOW_NS = 250_000_000
LARGEST_DRIFT = 500e-6  # a larger difference in rate is treated as a step
PAUSE_NS = 30_000_000  # between answers this far apart there may be a step of the clock
FEWEST_WINDOWS = 4  # with fewer, drift is indistinguishable from noise


@dataclass(frozen=True, slots=True)
class ClockSegment:
    """A period in which the drift between the clocks is constant.

    :param first_ns, last_ns: its limits on the guest's clock.
    :param offset_ns: guest minus host at ``first_ns``; it grows by ``drift`` ns per ns.
    :param error_ns: largest error of the offset, as long as the drift is constant.
    """

    first_ns: int
    last_ns: int
    offset_ns: float
    drift: float
    error_ns: float

    def offset_at(self, guest_ns: int) -> float:
        """Guest minus host at a time of the guest's clock."""
        return self.offset_ns + self.drift * (guest_ns - self.first_ns)


@dataclass(frozen=True, slots=True)
class ClockModel:
    """The guest's clock during one run: one segment, plus one for each step."""

    segments: tuple[ClockSegment, ...]

    @property
    def error_ns(self) -> float:
        """The largest error of any segment."""
        return max(segment.error_ns for segment in self.segments)

    def to_host(self, guest_ns: int) -> int:
        """Convert a time of the guest's clock to the host's; between two segments by the nearer one."""
        index = max(0, bisect.bisect_right(self.segments, guest_ns, key=lambda segment: segment.first_ns) - 1)
        segment = self.segments[index]
        if index + 1 < len(self.segments):
            following = self.segments[index + 1]
            if guest_ns > segment.last_ns and following.first_ns - guest_ns < guest_ns - segment.last_ns:
                segment = following
        return guest_ns - round(segment.offset_at(guest_ns))


@dataclass(slots=True)
class _Window:
    """Bounds of the offset from consecutive packets.

    :param after_pause: no answer arrived for :data:`PAUSE_NS` before it.
    """

    first: Arrival
    last: Arrival
    low: int
    high: int
    after_pause: bool = False

    @property
    def middle(self) -> float:
        return (self.first.t2 + self.last.t3) / 2

    def add(self, sample: Arrival) -> bool:
        """Narrow the bounds by a sample; False when it contradicts this window or is too far from it."""
        if sample.t4 - self.first.t4 > WINDOW_NS or sample.t4 - self.last.t4 > PAUSE_NS:
            return False
        slack = _slack(sample.t4 - self.first.t4)
        low, high = max(self.low, sample.t3 - sample.t4), min(self.high, sample.t2 - sample.t1)
        if low > high + slack:
            return False
        self.low, self.high, self.last = low, high, sample
        return True

    def agrees(self, other: _Window) -> bool:
        slack = _slack(other.last.t4 - self.first.t4)
        return self.low <= other.high + slack and other.low <= self.high + slack


def _slack(distance_ns: int) -> float:
    return 1000 + LARGEST_DRIFT * abs(distance_ns)


def estimate_clock(samples: Iterable[Arrival]) -> ClockModel | None:
    """The model of the guest's clock from the answers of all flows; None without any."""
    windows: list[_Window] = []
    for sample in sorted(samples, key=lambda sample: sample.t1):  # not by the guest's clock, which may jump back
        if not windows or not windows[-1].add(sample):
            paused = bool(windows) and sample.t4 - windows[-1].last.t4 > PAUSE_NS
            windows.append(_Window(sample, sample, sample.t3 - sample.t4, sample.t2 - sample.t1, paused))
    if not windows:
        return None
    groups = [[windows[0]]]
    for window in windows[1:]:
        if all(window.agrees(other) for other in groups[-1]):
            groups[-1].append(window)
        else:
            groups.append([*_undecided(groups[-1], window), window])
    segments = sorted((_fit(group) for group in groups), key=lambda segment: segment.first_ns)
    return ClockModel(tuple(segments))


def _undecided(group: list[_Window], window: _Window) -> list[_Window]:
    """Remove the windows from the end of a group that agree with a window which contradicts the group.

    A guest that was stopped answers late until it has processed the packets that waited. Late answers bound the offset
    loosely, so their windows agree with both sides of the step. Those after the pause belong to the later side.
    """
    found: list[_Window] = []
    while len(group) > 1 and group[-1].agrees(window) and not (found and found[0].after_pause):
        found.insert(0, group.pop())
    return found


def _fit(windows: Sequence[_Window]) -> ClockSegment:
    """Fit a line to the windows; the slope by least squares, weighted by the narrowness of the bounds."""
    start = windows[0].first.t2
    choices = [0.0]
    if len(windows) >= FEWEST_WINDOWS:
        choices.insert(0, _slope(windows, start))
    fits = []
    for drift in choices:
        low = max(window.low - drift * (window.middle - start) for window in windows)
        high = min(window.high - drift * (window.middle - start) for window in windows)
        error = (high - low) / 2
        if high < low:  # the drift is not constant: the narrowest window deviates by this much more
            error = -error + min(window.high - window.low for window in windows) / 2
        fits.append((high < low, error, (low + high) / 2, drift))
    contradictory, error, offset, drift = fits[0]
    if contradictory and not fits[-1][0]:
        _, error, offset, drift = fits[-1]
    last = max(window.last.t3 for window in windows)
    return ClockSegment(start, last, offset, drift, error)


def _slope(windows: Sequence[_Window], start: int) -> float:
    weights = [1 / max(1000.0, window.high - window.low) ** 2 for window in windows]
    total = sum(weights)
    times = [window.middle - start for window in windows]
    values = [(window.low + window.high) / 2 for window in windows]
    mean_time = sum(w * x for w, x in zip(weights, times, strict=True)) / total
    mean_value = sum(w * y for w, y in zip(weights, values, strict=True)) / total
    spread = sum(w * (x - mean_time) ** 2 for w, x in zip(weights, times, strict=True))
    if spread == 0:
        return 0.0
    pairs = zip(weights, times, values, strict=True)
    return sum(w * (x - mean_time) * (y - mean_value) for w, x, y in pairs) / spread
