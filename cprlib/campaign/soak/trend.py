"""Does a series grow? Theil-Sen slope and Mann-Kendall test, session by session.

A resource of the process itself starts anew with each session, so that only pairs of samples of one session are
compared; the statistics of all sessions are added up (Hirsch and Slack's seasonal Kendall test, with sessions for
seasons). The first quarter of each session is left out: caches fill and modules are imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cprlib.evidence.terms import Outcome

SIGNIFICANCE = 0.001
LEAST_SAMPLES = 8  # of seven even a series that always grows is not significant
WARM_UP = 0.25

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Trend:
    """What a series comes to.

    :param samples: that were looked at, without the warm-up.
    :param per_hour: Theil-Sen slope; None without a pair of samples.
    :param growth: slope times the time looked at.
    :param p: of a one-sided Mann-Kendall test: how likely a flat series grows like this.
    :param first, last: medians of the first and last quarter of what was looked at.
    """

    outcome: Outcome
    samples: int
    per_hour: float | None = None
    growth: float | None = None
    p: float | None = None
    first: float | None = None
    last: float | None = None


def trend(sessions: Sequence[Series], size: float) -> Trend:
    """The trend of a resource.

    :param sessions: for each, samples as (seconds, value) in the order of time.
    :param size: growth that is worth an accusation.
    :returns: fail when it is significant and of that size; inconclusive when it is of that size only, or with too few
        samples.
    """
    looked_at = [_warm(series) for series in sessions]
    count = sum(map(len, looked_at))
    slopes = sorted(
        (later - earlier) / (at - before)
        for series in looked_at
        for place, (before, earlier) in enumerate(series)
        for at, later in series[place + 1 :]
        if at > before
    )
    if not slopes:
        return Trend(Outcome.INCONCLUSIVE, count)
    slope = _median(slopes)
    span = sum(series[-1][0] - series[0][0] for series in looked_at if series)
    values = [value for series in looked_at for _, value in series]
    quarter = max(1, len(values) // 4)
    p = _mann_kendall([[value for _, value in series] for series in looked_at])
    growth = slope * span
    outcome = Outcome.PASS
    if growth >= size:
        outcome = Outcome.FAIL if p < SIGNIFICANCE else Outcome.INCONCLUSIVE
    elif count < LEAST_SAMPLES:
        outcome = Outcome.INCONCLUSIVE
    first, last = _median(sorted(values[:quarter])), _median(sorted(values[-quarter:]))
    return Trend(outcome, count, slope * 3600, growth, p, first, last)


def warm_up(count: int) -> int:
    """How many samples of a session are left out."""
    return math.ceil(count * WARM_UP)


def _warm(series: Series) -> Series:
    return series[warm_up(len(series)) :]


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _mann_kendall(sessions: Sequence[Sequence[float]]) -> float:
    """One-sided p of a trend upwards; normal approximation with ties and continuity correction, 1 for a constant."""
    from scipy.stats import norm  # noqa: PLC0415 - takes half a second, and is used at the end

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
    return float(norm.sf(corrected / math.sqrt(variance)))
