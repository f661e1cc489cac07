"""From chains of A and B to words: regress, improve, no difference of a stated size, or undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median, stdev

from cprlib.campaign.compare.chain import COUNTS, DURATIONS, Chain, Metric
from cprlib.campaign.compare.exact import Shift, holm, paired_shift, step_down, unpaired_shift
from cprlib.campaign.compare.findings import Accusation, Change, CountResult, DurationResult, Effect, Findings, Sample
from cprlib.campaign.compare.looks import Look
from cprlib.campaign.compare.rare import WORTH_SEEING, at_most, more_often

FEWEST = 2  # chains of each side, to tell a difference from noise


def decide(samples: Sequence[Sample], look: Look, effect: Effect) -> Findings:
    """Look at the data once.

    :param look: what this look may use of the allowance for false alarms.
    """
    believed = [_believed(sample) for sample in samples]
    shifts = [
        (sample, metric, *_shift(sample, metric))
        for sample in believed
        for metric in DURATIONS
        if _seen(sample, metric)
    ]
    worse, better = _adjusted(samples, 1), _adjusted(samples, -1)
    durations = [
        _duration(
            sample, metric, pairs, shift, (worse[_key(sample, metric)], better[_key(sample, metric)]), look, effect
        )
        for sample, metric, pairs, shift in shifts
    ]
    return Findings(
        tuple(durations),
        tuple(_counts(believed, look)),
        tuple(item for sample in samples for item in _accusations(sample)),
        tuple(_problems(samples, believed)),
    )


def smallest_p(samples: Sequence[Sample]) -> float:
    """No look at these data can give a smaller p, adjusted for the number of tests."""
    believed = [_believed(sample) for sample in samples]
    found = [(sample.paired, _shift(sample, metric)[1]) for sample in believed for metric in DURATIONS]
    known = [(paired, shift.smallest_p) for paired, shift in found if shift]
    apart = sum(not paired for paired, _ in known)
    return min((p * (1 if paired else apart) for paired, p in known), default=1.0)


def _key(sample: Sample, metric: Metric) -> tuple[str, str]:
    return sample.case, metric.name


def _adjusted(samples: Sequence[Sample], sign: int) -> dict[tuple[str, str], float]:
    """One-sided p of each duration, adjusted for their number: with 1 for "B takes longer", with -1 for the contrary.

    Pairs of one round belong together in all cases; what is not paired has nothing in common, and is left to Holm.
    """
    adjusted: dict[tuple[str, str], float] = {}
    tests = [(sample, metric) for sample in samples for metric in DURATIONS if _seen(sample, metric)]
    together = [(sample, metric) for sample, metric in tests if sample.paired]
    rounds = max((len(sample.a) for sample, _ in together), default=0)
    rows = [_differences(sample, metric, sign, rounds) for sample, metric in together]
    for (sample, metric), p in zip(together, step_down(rows), strict=True):
        adjusted[_key(sample, metric)] = p
    apart = [(sample, metric, _shift(_believed(sample), metric)[1]) for sample, metric in tests if not sample.paired]
    alone = [1.0 if shift is None else shift.p_above if sign > 0 else shift.p_below for *_, shift in apart]
    for (sample, metric, _), p in zip(apart, holm(alone), strict=True):
        adjusted[_key(sample, metric)] = p
    return adjusted


def _differences(sample: Sample, metric: Metric, sign: int, rounds: int) -> list[float | None]:
    """Of the logarithms, round by round; None for a pair that is not whole or not believed."""
    found: list[float | None] = []
    for a, b in zip(sample.a, sample.b, strict=True):
        before, after = a.middle(metric.name), b.middle(metric.name)
        known = before is not None and after is not None and a.believed and b.believed
        found.append(sign * (math.log(after) - math.log(before)) if known and before and after else None)
    return found + [None] * (rounds - len(found))


def _believed(sample: Sample) -> Sample:
    """Without chains that are not believed; a pair goes as a whole."""
    if not sample.paired:
        a, b = (tuple(chain for chain in side if chain.believed) for side in (sample.a, sample.b))
        return Sample(sample.case, a, b, False)
    pairs = [(a, b) for a, b in zip(sample.a, sample.b, strict=True) if a.believed and b.believed]
    return Sample(sample.case, tuple(a for a, _ in pairs), tuple(b for _, b in pairs), True)


def _seen(sample: Sample, metric: Metric) -> bool:
    return any(chain.durations.get(metric.name) for chain in (*sample.a, *sample.b))


def _shift(sample: Sample, metric: Metric) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], Shift | None]:
    """Medians of the chains that have the metric, and by how much their logarithms differ."""
    a, b = ([chain.middle(metric.name) for chain in side] for side in (sample.a, sample.b))
    if sample.paired:
        pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        known_a, known_b = tuple(x for x, _ in pairs), tuple(y for _, y in pairs)
    else:
        known_a, known_b = (tuple(value for value in side if value is not None) for side in (a, b))
    if min(len(known_a), len(known_b)) < FEWEST:
        return (known_a, known_b), None
    logs_a, logs_b = ([math.log(value) for value in side] for side in (known_a, known_b))
    if sample.paired:
        return (known_a, known_b), paired_shift([y - x for x, y in zip(logs_a, logs_b, strict=True)])
    return (known_a, known_b), unpaired_shift(logs_a, logs_b)


def _duration(
    sample: Sample,
    metric: Metric,
    pairs: tuple[tuple[float, ...], tuple[float, ...]],
    shift: Shift | None,
    p: tuple[float, float],
    look: Look,
    effect: Effect,
) -> DurationResult:
    a, b = (_middle(side, metric) for side in (sample.a, sample.b))
    wanted = effect.of(median(pairs[0])) if pairs[0] else effect.ratio
    interval = shift.interval(look.confidence) if shift else None
    low, high = (math.exp(interval[0]), math.exp(interval[1])) if interval else (None, None)
    ratio = math.exp(shift.estimate) if shift else None
    change = Change.UNDECIDED
    if ratio is not None:
        if p[0] <= look.durations and ratio >= 1 + wanted:
            change = Change.REGRESS
        elif p[1] <= look.durations and ratio <= 1 / (1 + wanted):
            change = Change.IMPROVE
        elif low is not None and high is not None and 1 / (1 + wanted) < low and high < 1 + wanted:
            change = Change.SAME
    scatter = math.expm1(stdev(map(math.log, pairs[0]))) if len(pairs[0]) > 1 else None
    noise, drift = (_within(*pairs), scatter) if sample.paired else (scatter, None)
    return DurationResult(
        sample.case, metric, pairs[0], pairs[1], a, b, ratio, low, high, p[0], p[1], wanted, noise, drift, change
    )


def _within(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Scatter of one chain, from the differences of two: these have the noise of both, and a ratio in common."""
    if len(a) < FEWEST:
        return None
    return math.expm1(stdev(math.log(y / x) for x, y in zip(a, b, strict=True)) / math.sqrt(2))


def _middle(chains: Sequence[Chain], metric: Metric) -> float | None:
    values = [value for chain in chains for value in chain.durations.get(metric.name, ())]
    return median(values) if values else None


def _counts(samples: Sequence[Sample], look: Look) -> list[CountResult]:
    rows = [
        (sample, metric, _affected(sample.a, metric), _affected(sample.b, metric))
        for sample in samples
        for metric in COUNTS
        if sample.a and sample.b
    ]
    guests = [(_guests(sample.a, metric), _guests(sample.b, metric)) for sample, metric, *_ in rows]
    worse = holm([more_often(*a, *b) for a, b in guests])
    better = holm([more_often(*b, *a) for a, b in guests])
    results = []
    for index, (sample, metric, a, b) in enumerate(rows):
        bound = at_most(b[1], b[2])
        if worse[index] <= look.counts:
            change = Change.REGRESS
        elif better[index] <= look.counts:
            change = Change.IMPROVE
        elif bound <= WORTH_SEEING or (a[1] and b[1] * a[2] <= a[1] * b[2]):
            change = Change.SAME
        else:
            change = Change.UNDECIDED
        results.append(
            CountResult(sample.case, metric, a[0], b[0], a[1], b[1], a[2], b[2], worse[index], bound, change)
        )
    return results


def _guests(chains: Sequence[Chain], metric: Metric) -> tuple[int, int]:
    """Guests with any, guests: what the tests count, because updates of one guest have their troubles in common."""
    counted = [chain for chain in chains if not chain.overlong]
    return sum(chain.affected.get(metric.name, 0) > 0 for chain in counted), len(counted)


def _affected(chains: Sequence[Chain], metric: Metric) -> tuple[int, int, int]:
    """Packets, updates with any, updates."""
    counted = [chain for chain in chains if not chain.overlong]
    return (
        sum(chain.packets.get(metric.name, 0) for chain in counted),
        sum(chain.affected.get(metric.name, 0) for chain in counted),
        sum(chain.updates for chain in counted),
    )


def _accusations(sample: Sample) -> list[Accusation]:
    """What the policy refuses in B, one line for each property; also what keeps B's cases from running."""
    known_a = {_about(text) for chain in sample.a for text in _refused(chain)}
    found: dict[str, list[str]] = {}
    for chain in sample.b:
        for about, text in {_about(text): text for text in reversed(_refused(chain))}.items():
            found.setdefault(about, []).append(text)
    return [
        Accusation(sample.case, texts[0], len(texts), len(sample.b), about in known_a)
        for about, texts in sorted(found.items())
    ]


def _refused(chain: Chain) -> tuple[str, ...]:
    return (*chain.failures, *((f"skipped: {chain.skipped}",) if chain.skipped else ()))


def _about(text: str) -> str:
    about = text.partition(":")[0]
    return "stream" if about.startswith("stream ") else about


def _problems(samples: Sequence[Sample], believed: Sequence[Sample]) -> list[str]:
    """Why nothing can be said of a case."""
    problems = []
    for sample, good in zip(samples, believed, strict=True):
        if not good.a or not good.b:
            reasons = [text for chain in (*sample.a, *sample.b) for text in (*chain.doubts, chain.skipped) if text]
            problems.append(f"{sample.case}: no chain of both is believed{f': {reasons[0]}' if reasons else ''}")
    return problems
