"""Statistics of a comparison: permutation tests with intervals, exact tests of counts, correction, alpha spending.

Permutation tests of both designs (paired, unpaired) use *typical values* (Hartigan 1969, J. Am. Stat. Assoc.
64:1303): shifts at which one rearrangement of the data is just as extreme as the data. A true shift lies with equal
probability in each of the N + 1 gaps between N typical values, so counting them gives the p of the test and, inverted,
an interval with exact coverage, for six observations as for sixty. scipy's permutation_test gives the same p (the unit
tests compare them) but no interval, and the coverage of its bootstrap is too low (docs/comparing.md). Where there are
too many rearrangements some are drawn; the data are one of them, so p stays valid (Phipson and Smyth 2010).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

Matrix = NDArray[numpy.float64]
EXACT_UP_TO = 1 << 13  # rearrangements: all are used
DRAWN = 10_000  # where there are more
SEED = 1969

FALSE_ALARM = 0.01  # probability of a regression between equal QEMUs, over all analyses, metrics and cases
DURATIONS_SHARE = 0.8  # of it for durations; the rest is for counts
MISSED_RATIO = 0.05  # probability that an interval misses the true ratio, over all analyses, for one metric

WORTH_SEEING = 0.1  # a loss in one update of ten must be seen
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much B lies above A.

    :param estimate: mean difference.
    :param typical: typical values, ascending.
    """

    estimate: float
    typical: Sequence[float]

    @property
    def p_above(self) -> float:
        """One-sided p of "not above 0"."""
        return (1 + bisect.bisect_right(self.typical, 0)) / (1 + len(self.typical))

    @property
    def p_below(self) -> float:
        """One-sided p of "not below 0"."""
        return (1 + len(self.typical) - bisect.bisect_left(self.typical, 0)) / (1 + len(self.typical))

    @property
    def smallest_p(self) -> float:
        """The smallest p that data of this size can give."""
        return 1 / (1 + len(self.typical))

    def interval(self, level: float) -> tuple[float, float] | None:
        """Confidence interval of the shift, by one-sided tests at (1 - level) / 2; None with too few observations.

        :param level: of confidence, 0.95.
        """
        out = math.floor((1 - level) / 2 * (1 + len(self.typical)) + 1e-9)
        if out < 1:
            return None
        return self.typical[out - 1], self.typical[-out]


def paired_shift(differences: Sequence[float]) -> Shift:
    """From differences B - A of pairs: without a true difference each could have the other sign as well.

    :param differences: at least one.
    """
    values = numpy.asarray(differences, dtype=float)
    chosen = _sign_flips(len(values))
    return Shift(float(values.mean()), numpy.sort(chosen @ values / chosen.sum(axis=1)).tolist())


def _sign_flips(count: int) -> Matrix:
    """A row for each set of pairs that change their sign; the empty set is left out."""
    if 2**count <= EXACT_UP_TO:
        return numpy.array(list(itertools.product((0.0, 1.0), repeat=count)))[1:]
    flips = numpy.random.default_rng(SEED).integers(0, 2, (DRAWN, count)).astype(float)
    return flips[flips.any(axis=1)]


def step_down(differences: Sequence[Sequence[float | None]]) -> list[float]:
    """One-sided p of "not above 0" of several measurements of the same pairs, adjusted for their number.

    Step-down by the largest statistic (Westfall and Young 1993, algorithm 2.8): a pair changes its sign in all
    measurements at once, so correlated measurements cost little power; Holm would count each as another chance.

    :param differences: for each measurement B - A of each pair, in the same order; None where it is unknown.
    """
    if not differences:
        return []
    table = numpy.array([[0.0 if value is None else value for value in row] for row in differences])
    size = numpy.sqrt((table**2).sum(axis=1))
    scaled = table / numpy.where(size > 0, size, 1.0)[:, None]
    observed = scaled.sum(axis=1)
    others = observed[None, :] - 2 * _sign_flips(table.shape[1]) @ scaled.T
    order = numpy.argsort(-observed, kind="stable")
    adjusted, highest = [1.0] * len(order), 0.0
    for place, index in enumerate(order):
        largest = others[:, order[place:]].max(axis=1)
        p = (1 + int((largest >= observed[index] - 1e-12).sum())) / (1 + len(largest))
        highest = max(highest, p)
        adjusted[int(index)] = highest
    return adjusted


def unpaired_shift(first: Sequence[float], second: Sequence[float]) -> Shift:
    """From unpaired observations of A and B: without a true difference each could be of the other side as well.

    :param first, second: of A and of B, at least one each.
    """
    pooled = numpy.asarray([*first, *second], dtype=float)
    before, count = len(first), len(pooled)
    weight = 1 / len(second) + 1 / before
    if math.comb(count, before) <= EXACT_UP_TO:
        groups = numpy.zeros((math.comb(count, before), count))
        for number, places in enumerate(itertools.combinations(range(count), len(second))):
            groups[number, list(places)] = 1
    else:
        draw = numpy.random.default_rng(SEED)
        ranks = numpy.argsort(draw.random((DRAWN, count)), axis=1)
        groups = (ranks < len(second)).astype(float)
    observed = pooled[before:].mean() - pooled[:before].mean()
    means = weight * (groups @ pooled) - pooled.sum() / before
    kept = (weight * groups[:, before:].sum(axis=1)) - len(second) / before  # share of a shift that a regrouping keeps
    other = groups[:, before:].sum(axis=1) < len(second)
    return Shift(float(observed), numpy.sort((observed - means[other]) / (1 - kept[other])).tolist())


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): the probability of one false alarm among all stays below the level."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    adjusted = [1.0] * len(values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - place)))
        adjusted[index] = highest
    return adjusted


def more_often(a_affected: int, a_total: int, b_affected: int, b_total: int) -> float:
    """One-sided p of "no more often in B" (Fisher's exact test)."""
    from scipy.stats import fisher_exact  # noqa: PLC0415 - takes half a second

    table = [[b_affected, b_total - b_affected], [a_affected, a_total - a_affected]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def at_most(affected: int, updates: int) -> float:
    """Upper end of the share of affected updates, with 95 % confidence (Clopper and Pearson, one-sided)."""
    from scipy.stats import binomtest  # noqa: PLC0415 - takes half a second

    if not updates:
        return 1.0
    interval = binomtest(affected, updates, alternative="less").proportion_ci(CONFIDENCE, method="exact")
    return float(interval.high)


def chance_to_see(updates: int) -> float:
    """The probability that at least one of these updates is affected by what affects one of ten."""
    return 1 - (1 - WORTH_SEEING) ** updates


def updates_needed() -> int:
    """Updates needed to see what affects one of ten with a probability of 95 %: 29."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - WORTH_SEEING))


@dataclass(frozen=True, slots=True)
class Analysis:
    """The error rates of one interim analysis.

    :param share: of the whole alpha; 1 for a comparison with a single analysis.
    """

    share: float

    @property
    def durations(self) -> float:
        """One-sided level of the tests of durations, all together."""
        return FALSE_ALARM * DURATIONS_SHARE * self.share

    @property
    def counts(self) -> float:
        """One-sided level of the tests of counts, all together."""
        return FALSE_ALARM * (1 - DURATIONS_SHARE) * self.share

    @property
    def confidence(self) -> float:
        """Level of the intervals."""
        return 1 - MISSED_RATIO * self.share


SINGLE_ANALYSIS = Analysis(1.0)


def next_analysis(spent: float, fraction: float, smallest_p: float, *, last: bool = False) -> Analysis | None:
    """The next interim analysis of a comparison; None when it is too early for one.

    Alpha is spent as the budget is used up (spending function linear in time, Lan and DeMets 1983). The levels add up
    to it, whatever the dependence between the analyses. An analysis that could hardly decide anything is left out; its
    share remains for the next. The levels are fixed before an analysis. Only two things of the data bring the last one
    forward: a refusal, which decides without statistics, and two rounds without a valid guest.

    :param spent: share that earlier analyses used. :param fraction: of the budget that is used up.
    :param smallest_p: the smallest adjusted p that the data can give.
    :param last: there is no later one.
    """
    share = max(0.0, (1.0 if last else min(1.0, fraction)) - spent)
    too_early = not last and (share == 0 or smallest_p > FALSE_ALARM * DURATIONS_SHARE * share / 2)
    return None if too_early else Analysis(share)
