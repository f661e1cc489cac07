"""From guests of A and B to a decision for each metric: regression, improvement, no difference, or undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median, stdev

from cprlib.campaign.compare import Effect
from cprlib.campaign.compare.decision import Change, CountResult, Decision, DurationResult, Refusal, Sample
from cprlib.campaign.compare.guest import COUNTS, DURATIONS, GuestResult, Metric
from cprlib.campaign.compare.statistics import (
    WORTH_SEEING,
    Analysis,
    Shift,
    at_most,
    holm,
    more_often,
    paired_shift,
    step_down,
    unpaired_shift,
)

FEWEST_GUESTS = 2  # of each side, to tell a difference from noise
SHORTEST_MS = 0.01  # a shorter duration counts as this: ratios and logarithms need more than 0


def decide(samples: Sequence[Sample], analysis: Analysis, effect: Effect) -> Decision:
    """Analyse the data once.

    :param analysis: error rates of this analysis.
    """
    valid = [_valid(sample) for sample in samples]
    worse, better = _adjusted(samples, 1), _adjusted(samples, -1)
    durations = [
        _duration(sample, metric, worse[sample.case, metric.name], better[sample.case, metric.name], analysis, effect)
        for sample in valid
        for metric in DURATIONS
        if _measured(sample, metric)
    ]
    rows, refused = _count_rows(valid), [item for sample in samples for item in refusals(sample)]
    more = holm(
        [
            *(more_often(a.affected_guests, a.guests, b.affected_guests, b.guests) for *_, a, b in rows),
            *(more_often(item.a_guests, item.a_of, item.guests, item.of) for item in refused),
        ]
    )
    return Decision(
        tuple(durations),
        tuple(_counts(rows, more[: len(rows)], analysis)),
        tuple(
            replace(item, change=Change.REGRESS) if p <= analysis.counts else item
            for item, p in zip(refused, more[len(rows) :], strict=True)
        ),
        tuple(_problems(samples, valid)),
    )


def smallest_p(samples: Sequence[Sample]) -> float:
    """The smallest adjusted p that these pairs can give."""
    shifts = (_shift(_valid(sample), metric)[1] for sample in samples for metric in DURATIONS)
    return min((shift.smallest_p for shift in shifts if shift), default=1.0)


def _adjusted(samples: Sequence[Sample], sign: int) -> dict[tuple[str, str], float]:
    """One-sided p by case and metric, adjusted for their number: with 1 for "B takes longer", with -1 for "shorter".

    Pairs of one round belong together in all cases, so they are tested jointly; unpaired metrics are left to Holm.
    """
    tests = [(sample, metric) for sample in samples for metric in DURATIONS if _measured(sample, metric)]
    if all(sample.paired for sample, _ in tests):  # in a session all are, between saved results none is
        values = step_down([_differences(sample, metric, sign) for sample, metric in tests])
    else:
        shifts = [_shift(_valid(sample), metric)[1] for sample, metric in tests]
        values = holm([1.0 if not shift else shift.p_above if sign > 0 else shift.p_below for shift in shifts])
    return {(sample.case, metric.name): p for (sample, metric), p in zip(tests, values, strict=True)}


def _differences(sample: Sample, metric: Metric, sign: int) -> list[float | None]:
    """Of the logarithms, round by round; None for a pair that is incomplete or discarded."""
    found: list[float | None] = []
    for a, b in zip(sample.a, sample.b, strict=True):
        before, after = _median(a, metric), _median(b, metric)
        found.append(sign * math.log(after / before) if a.valid and b.valid and before and after else None)
    return found


def _median(guest: GuestResult, metric: Metric) -> float | None:
    value = guest.median_ms(metric.name)
    return None if value is None else max(value, SHORTEST_MS)


def _valid(sample: Sample) -> Sample:
    """Without discarded guests; a pair goes with both guests."""
    if not sample.paired:
        a, b = (tuple(guest for guest in side if guest.valid) for side in (sample.a, sample.b))
        return Sample(sample.case, a, b, False)
    pairs = [(a, b) for a, b in zip(sample.a, sample.b, strict=True) if a.valid and b.valid]
    return Sample(sample.case, tuple(a for a, _ in pairs), tuple(b for _, b in pairs), True)


def _measured(sample: Sample, metric: Metric) -> bool:
    return any(guest.durations.get(metric.name) for guest in (*sample.a, *sample.b))


def _shift(sample: Sample, metric: Metric) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], Shift | None]:
    """Medians of the guests that have the metric, and the shift between their logarithms."""
    a, b = ([_median(guest, metric) for guest in side] for side in (sample.a, sample.b))
    if sample.paired:
        pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        known_a, known_b = tuple(x for x, _ in pairs), tuple(y for _, y in pairs)
    else:
        known_a, known_b = (tuple(value for value in side if value is not None) for side in (a, b))
    if min(len(known_a), len(known_b)) < FEWEST_GUESTS:
        return (known_a, known_b), None
    logs_a, logs_b = ([math.log(value) for value in side] for side in (known_a, known_b))
    if sample.paired:
        return (known_a, known_b), paired_shift([y - x for x, y in zip(logs_a, logs_b, strict=True)])
    return (known_a, known_b), unpaired_shift(logs_a, logs_b)


def _duration(
    sample: Sample, metric: Metric, worse: float, better: float, analysis: Analysis, effect: Effect
) -> DurationResult:
    (a, b), shift = _shift(sample, metric)
    limit = effect.of(median(a)) if a else effect.ratio
    interval = shift.interval(analysis.confidence) if shift else None
    low, high = (math.exp(interval[0]), math.exp(interval[1])) if interval else (None, None)
    ratio = math.exp(shift.estimate) if shift else None
    change = Change.UNDECIDED
    if ratio is not None:
        if worse <= analysis.durations and ratio >= 1 + limit:
            change = Change.REGRESS
        elif better <= analysis.durations and ratio <= 1 / (1 + limit):
            change = Change.IMPROVE
        elif low is not None and high is not None and 1 / (1 + limit) < low and high < 1 + limit:
            change = Change.SAME
    return DurationResult(
        sample.case,
        metric,
        a,
        b,
        _median_of_updates(sample.a, metric),
        _median_of_updates(sample.b, metric),
        ratio,
        low,
        high,
        worse,
        better,
        limit,
        _noise(a, b, sample.paired),
        change,
    )


def _noise(a: Sequence[float], b: Sequence[float], paired: bool) -> float | None:
    """Scatter of one guest; from the differences of pairs, which have the noise of both and the ratio in common."""
    if len(a) < FEWEST_GUESTS:
        return None
    if not paired:
        return math.expm1(stdev(map(math.log, a)))
    return math.expm1(stdev(math.log(y / x) for x, y in zip(a, b, strict=True)) / math.sqrt(2))


def _median_of_updates(guests: Sequence[GuestResult], metric: Metric) -> float | None:
    values = [value for guest in guests for value in guest.durations.get(metric.name, ())]
    return median(values) if values else None


def _count_rows(samples: Sequence[Sample]) -> list[tuple[Sample, Metric, _Affected, _Affected]]:
    return [
        (sample, metric, _affected(sample.a, metric), _affected(sample.b, metric))
        for sample in samples
        for metric in COUNTS
        if sample.a and sample.b and any(metric.name in guest.packets for guest in (*sample.a, *sample.b))
    ]


def _counts(
    rows: Sequence[tuple[Sample, Metric, _Affected, _Affected]], worse: Sequence[float], analysis: Analysis
) -> list[CountResult]:
    better = holm([more_often(b.affected_guests, b.guests, a.affected_guests, a.guests) for *_, a, b in rows])
    results = []
    for index, (sample, metric, a, b) in enumerate(rows):
        bound = at_most(b.affected, b.updates)
        if worse[index] <= analysis.counts:
            change = Change.REGRESS
        elif better[index] <= analysis.counts:
            change = Change.IMPROVE
        elif bound <= WORTH_SEEING or (a.affected and b.updates and b.affected * a.updates <= a.affected * b.updates):
            change = Change.SAME
        else:
            change = Change.UNDECIDED
        packets = (a.packets, b.packets, a.affected, b.affected, a.updates, b.updates)
        results.append(CountResult(sample.case, metric, *packets, worse[index], bound, change))
    return results


@dataclass(frozen=True, slots=True)
class _Affected:
    """One side's packets of a metric, in the updates where their number is known.

    The tests count guests, because updates of one guest are not independent.
    """

    packets: int
    affected: int
    updates: int
    affected_guests: int
    guests: int


def _affected(guests: Sequence[GuestResult], metric: Metric) -> _Affected:
    name = metric.name
    counted = [guest for guest in guests if not guest.overlong and guest.known_updates(name)]
    affected = [guest.affected.get(name, 0) for guest in counted]
    return _Affected(
        sum(guest.packets.get(name, 0) for guest in counted),
        sum(affected),
        sum(guest.known_updates(name) for guest in counted),
        sum(count > 0 for count in affected),
        len(counted),
    )


def refusals(sample: Sample) -> list[Refusal]:
    """What the policy refuses in B, one for each property; also what keeps B's cases from running.

    Before the test of their numbers: a property that A has as well is undecided where B has it more often.
    """
    sides = [[_refused(guest) for guest in side] for side in (sample.a, sample.b)]
    found = []
    for name in sorted({name for guest in sides[1] for name in guest}):
        (in_a, of_a), (in_b, of_b) = [(sum(name in guest for guest in side), len(side)) for side in sides]
        change = Change.UNDECIDED if in_b * of_a > in_a * of_b else Change.SAME
        text = next(guest[name] for guest in sides[1] if name in guest)
        found.append(Refusal(sample.case, text, in_b, of_b, in_a, of_a, change if in_a else Change.REGRESS))
    return found


def _refused(guest: GuestResult) -> dict[str, str]:
    """The first text of each property that the policy refuses, at whichever step or stream."""
    found: dict[str, str] = {}
    for item in guest.failures:
        found.setdefault(item.property_name, f"{item.about}: {item.text}")
    if guest.skipped:
        found.setdefault("skipped", f"skipped: {guest.skipped}")
    return found


def _problems(samples: Sequence[Sample], valid: Sequence[Sample]) -> list[str]:
    """Cases without figures, with the first reason."""
    problems = []
    for sample, good in zip(samples, valid, strict=True):
        if not good.a or not good.b:
            reasons = [text for guest in (*sample.a, *sample.b) for text in (*guest.problems, guest.skipped) if text]
            reason = f": {reasons[0]}" if reasons else ""
            problems.append(f"{sample.case}: no valid guest of both sides{reason}")
    return problems
