"""Permutation tests with the interval that belongs to them, for few observations of unknown distribution.

Both designs come to *typical values* (Hartigan 1969, J. Am. Stat. Assoc. 64:1303): shifts at which one rearrangement of
the data is just as extreme as what was seen. A true shift is equally likely to lie in each of the N + 1 gaps between N
typical values, so that counting them gives the test's p and, inverted, an interval whose coverage is exact with six
observations as with sixty; a bootstrap's is not (docs/comparing.md has figures). Where the rearrangements are too many
they are drawn; what was seen is one of them, so that p stays valid (Phipson and Smyth 2010).
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
EXACT_UP_TO = 1 << 13  # rearrangements that are all looked at
DRAWN = 10_000  # where there are more
SEED = 1969


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
        """No data of this size give a smaller one."""
        return 1 / (1 + len(self.typical))

    def interval(self, level: float) -> tuple[float, float] | None:
        """The shifts that a test at (1 - level) / 2 on either side does not refuse; None where it refuses none.

        :param level: of confidence, 0.95.
        """
        out = math.floor((1 - level) / 2 * (1 + len(self.typical)) + 1e-9)
        if out < 1:
            return None
        return self.typical[out - 1], self.typical[-out]


def paired_shift(differences: Sequence[float]) -> Shift:
    """From differences B - A of pairs: under no difference each is as likely to have the other sign.

    :param differences: at least one.
    """
    values = numpy.asarray(differences, dtype=float)
    chosen = _turned(len(values))
    return Shift(float(values.mean()), numpy.sort(chosen @ values / chosen.sum(axis=1)).tolist())


def _turned(count: int) -> Matrix:
    """Which of so many pairs are turned round, a row for each way to do so; never none of them."""
    if 2**count <= EXACT_UP_TO:
        return numpy.array(list(itertools.product((0.0, 1.0), repeat=count)))[1:]
    turned = numpy.random.default_rng(SEED).integers(0, 2, (DRAWN, count)).astype(float)
    return turned[turned.any(axis=1)]


def step_down(differences: Sequence[Sequence[float | None]]) -> list[float]:
    """One-sided p of "not above 0" of several measurements of the same pairs, adjusted for their number.

    Westfall and Young's step-down by the largest statistic (1993, algorithm 2.8): the pairs are turned round for all of
    them at once, so that measurements which say the same cost nothing, where Holm would take each for another chance.

    :param differences: for each measurement B - A of each pair, in the same order; None where it is not known.
    """
    if not differences:
        return []
    table = numpy.array([[0.0 if value is None else value for value in row] for row in differences])
    size = numpy.sqrt((table**2).sum(axis=1))
    scaled = table / numpy.where(size > 0, size, 1.0)[:, None]
    observed = scaled.sum(axis=1)
    others = observed[None, :] - 2 * _turned(table.shape[1]) @ scaled.T
    order = numpy.argsort(-observed, kind="stable")
    adjusted, highest = [1.0] * len(order), 0.0
    for place, index in enumerate(order):
        largest = others[:, order[place:]].max(axis=1)
        p = (1 + int((largest >= observed[index] - 1e-12).sum())) / (1 + len(largest))
        highest = max(highest, p)
        adjusted[int(index)] = highest
    return adjusted


def unpaired_shift(first: Sequence[float], second: Sequence[float]) -> Shift:
    """From observations of A and B that do not belong together: under no difference each could be of the other.

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
    kept = (weight * groups[:, before:].sum(axis=1)) - len(second) / before  # how much of a shift a regrouping keeps
    other = groups[:, before:].sum(axis=1) < len(second)
    return Shift(float(observed), numpy.sort((observed - means[other]) / (1 - kept[other])).tolist())


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): the chance of one false alarm among all stays below the level."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    adjusted = [1.0] * len(values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - place)))
        adjusted[index] = highest
    return adjusted
