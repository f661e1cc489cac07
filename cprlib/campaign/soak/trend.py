"""Does a series grow? Theil-Sen slope and Mann-Kendall test over one or more sessions.

A resource of the process starts again with each session, so only samples of the same session are compared, and the
statistics of all sessions are added up (seasonal Kendall test, Hirsch and Slack 1984, with sessions as seasons).
theilslopes and kendalltau of scipy know a single series only, so pairs are compared here. The first quarter of each
session is left out as warm-up: caches fill and modules are imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from cprlib.campaign.soak.resources import Resource
from cprlib.evidence.records import Outcome

SIGNIFICANCE = 0.001
FEWEST_SAMPLES = 8  # with seven, even a series that always grows is not significant
WARM_UP = 0.25

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Trend:
    """A resource and its trend.

    :param limit: growth from which it counts as growing, in :attr:`unit`.
    :param verdict: fail for growth that reaches the limit and is significant; inconclusive when it reaches the limit
        only, or with too few samples.
    :param samples: without the warm-up.
    :param per_hour: Theil-Sen slope; None without a pair of samples.
    :param growth: slope times the time between first and last sample.
    :param p: of a one-sided Mann-Kendall test: probability that a flat series grows like this.
    :param first, last: medians of the first and the last quarter.
    """

    name: str
    title: str
    unit: str
    limit: float
    verdict: Outcome
    samples: int
    per_hour: float | None
    growth: float | None
    p: float | None
    first: float | None
    last: float | None

    @property
    def words(self) -> str:
        if self.verdict != Outcome.INCONCLUSIVE:
            return "grows" if self.verdict == Outcome.FAIL else "flat"
        return "too few samples" if self.samples < FEWEST_SAMPLES else "may grow"


def trend(resource: Resource, sessions: Sequence[Series]) -> Trend:
    """The trend of a resource.

    :param sessions: for each, samples as (seconds, value) in the order of time.
    """
    about = (resource.name, resource.title, resource.unit, resource.limit)
    used = [series[warm_up(len(series)) :] for series in sessions]
    count = sum(map(len, used))
    slopes = [
        (later - earlier) / (at - before)
        for series in used
        for place, (before, earlier) in enumerate(series)
        for at, later in series[place + 1 :]
        if at > before
    ]
    if not slopes:
        return Trend(*about, Outcome.INCONCLUSIVE, count, None, None, None, None, None)
    slope = median(slopes)
    growth = slope * sum(series[-1][0] - series[0][0] for series in used if series)
    values = [value for series in used for _, value in series]
    quarter = max(1, len(values) // 4)
    p = _mann_kendall([[value for _, value in series] for series in used])
    verdict = Outcome.PASS
    if growth >= resource.limit:
        verdict = Outcome.FAIL if p < SIGNIFICANCE else Outcome.INCONCLUSIVE
    elif count < FEWEST_SAMPLES:
        verdict = Outcome.INCONCLUSIVE
    first, last = median(values[:quarter]), median(values[-quarter:])
    return Trend(*about, verdict, count, slope * 3600, growth, p, first, last)


def warm_up(count: int) -> int:
    """Samples of a session that are left out."""
    return math.ceil(count * WARM_UP)


def _mann_kendall(sessions: Sequence[Sequence[float]]) -> float:
    """One-sided p of a rising trend; normal approximation with ties and continuity correction, 1 for a constant."""
    score, variance = 0, 0.0
    for values in sessions:
        n = len(values)
        score += sum(
            (later > earlier) - (later < earlier)
            for place, earlier in enumerate(values)
            for later in values[place + 1 :]
        )
        ties = [values.count(value) for value in set(values)]
        variance += (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    if variance == 0:
        return 1.0
    corrected = score - (score > 0) + (score < 0)
    return math.erfc(corrected / math.sqrt(2 * variance)) / 2  # above it in the normal distribution
