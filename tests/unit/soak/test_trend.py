"""A leak is found; noise and warm-up count as flat; each session starts again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from scipy import stats

from cprlib.campaign.soak.resources import Resource
from cprlib.campaign.soak.trend import FEWEST_SAMPLES, SIGNIFICANCE, Series, Trend, trend, warm_up
from cprlib.evidence.records import Outcome

pytestmark = pytest.mark.fast

SEEDS = range(100)


def found_trend(sessions: Sequence[Series], limit: float) -> Trend:
    return trend(Resource("memory", "Memory", "MiB", limit), sessions)


def noisy(seed: int, count: int = 40, growth: float = 0.0, deviation: float = 5.0) -> Series:
    """An hour of samples around 100, with noise, growing by ``growth`` in all."""
    source = random.Random(seed)  # noqa: S311 - noise
    return [(3600 * place / count, 100 + growth * place / count + source.gauss(0, deviation)) for place in range(count)]


@pytest.mark.parametrize("seed", SEEDS)
def test_flat_noise_is_flat(seed: int) -> None:
    assert found_trend([noisy(seed)], 16.0).verdict == Outcome.PASS


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_as_large_as_the_limit_never_fails(seed: int) -> None:
    found = found_trend([noisy(seed)], 5.0)
    assert found.verdict == (Outcome.PASS if found.growth is None or found.growth < 5 else Outcome.INCONCLUSIVE)


def test_growth_that_is_not_significant_is_inconclusive() -> None:
    series = [(60.0 * place, 100.0 + 9 * place + 60 * (-1) ** place) for place in range(12)]
    assert found_trend([series], 16.0).verdict == Outcome.INCONCLUSIVE


@pytest.mark.parametrize("seed", SEEDS)
def test_wandering_memory_below_the_limit_is_flat(seed: int) -> None:
    source, value, series = random.Random(seed), 100.0, []  # noqa: S311 - noise
    for place in range(60):
        value += source.gauss(0, 0.3)
        series.append((60.0 * place, value))
    assert found_trend([series], 16.0).verdict == Outcome.PASS


@pytest.mark.parametrize("seed", SEEDS)
def test_leak_in_noise_is_found(seed: int) -> None:
    found = found_trend([noisy(seed, growth=40)], 16.0)
    assert found.verdict == Outcome.FAIL
    assert found.per_hour == pytest.approx(40, abs=15)


def test_one_process_left_now_and_then_is_found() -> None:
    series = [(60.0 * place, float(place // 5)) for place in range(20)]
    found = found_trend([series], 1.0)
    assert found.verdict == Outcome.FAIL
    assert (found.first, found.last) == (1.0, 3.0)


def test_constant_is_flat() -> None:
    found = found_trend([[(60.0 * place, 7.0) for place in range(20)]], 1.0)
    assert (found.verdict, found.per_hour, found.p) == (Outcome.PASS, 0.0, 1.0)


def test_shrinking_is_no_growth() -> None:
    assert found_trend([[(60.0 * place, 100.0 - place) for place in range(30)]], 1.0).verdict == Outcome.PASS


def test_warm_up_is_left_out() -> None:
    series = [(60.0 * place, min(100.0, 20.0 * place)) for place in range(24)]
    assert found_trend([series], 4.0).verdict == Outcome.PASS
    assert warm_up(24) == 6


def test_small_growth_is_flat_however_significant_it_is() -> None:
    series = [(60.0 * place, 100.0 + 0.01 * place) for place in range(60)]
    found = found_trend([series], 4.0)
    assert found.verdict == Outcome.PASS
    assert found.p is not None
    assert found.p < SIGNIFICANCE


@pytest.mark.parametrize("count", range(12))
def test_too_few_samples_are_inconclusive(count: int) -> None:
    used = count - warm_up(count)
    flat = found_trend([[(60.0 * place, 7.0) for place in range(count)]], 1.0)
    assert flat.samples == used
    assert flat.verdict == (Outcome.PASS if used >= FEWEST_SAMPLES else Outcome.INCONCLUSIVE)


def test_growth_without_exception_is_found_with_the_fewest_samples() -> None:
    count = next(count for count in range(100) if count - warm_up(count) == FEWEST_SAMPLES)
    assert found_trend([[(60.0 * place, 9.0 * place) for place in range(count)]], 1.0).verdict == Outcome.FAIL


def test_new_session_is_a_new_series() -> None:
    """Each process is larger than the one before, and none of them grows."""
    sessions = [[(3600.0 * which + 60 * place, 50.0 + 20 * which) for place in range(15)] for which in range(4)]
    assert found_trend(sessions, 4.0).verdict == Outcome.PASS
    joined = [sample for session in sessions for sample in session]
    assert found_trend([joined], 4.0).verdict == Outcome.FAIL


def test_leak_is_found_over_several_short_sessions() -> None:
    sessions = [[(600.0 * which + 60 * place, 50.0 + 3 * place) for place in range(8)] for which in range(4)]
    found = found_trend(sessions, 16.0)
    assert (found.verdict, found.samples) == (Outcome.FAIL, 24)
    assert found.growth == pytest.approx(4 * 15)


@pytest.mark.parametrize("seed", range(10))
def test_figures_are_those_of_scipy(seed: int) -> None:
    series = noisy(seed, growth=8)
    rest = series[warm_up(len(series)) :]
    at, values = [at for at, _ in rest], [value for _, value in rest]
    found = found_trend([series], 5.0)
    assert found.per_hour == pytest.approx(stats.theilslopes(values, at).slope * 3600)
    assert found.p == pytest.approx(stats.kendalltau(at, values, alternative="greater").pvalue, abs=0.02)


def test_no_sample_is_no_error() -> None:
    cases: list[list[list[tuple[float, float]]]] = [[], [[]], [[(0.0, 1.0)]], [[(5.0, 1.0), (5.0, 2.0)]]]
    for sessions in cases:
        assert found_trend(sessions, 1.0).verdict == Outcome.INCONCLUSIVE
