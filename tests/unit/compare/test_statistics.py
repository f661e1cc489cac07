"""Tests agree with scipy's, intervals with their tests and with the truth; rare events; alpha spending."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cprlib.campaign.compare.statistics import (
    FALSE_ALARM,
    SINGLE_ANALYSIS,
    Analysis,
    at_most,
    chance_to_see,
    holm,
    more_often,
    next_analysis,
    paired_shift,
    step_down,
    unpaired_shift,
    updates_needed,
)

values = st.lists(st.floats(-5, 5).map(lambda value: round(value, 3)), min_size=3, max_size=7)


@settings(deadline=None, max_examples=40)
@given(values)
def test_paired_p_is_scipys(differences: list[float]) -> None:
    shift = paired_shift(differences)
    for alternative, ours in (("greater", shift.p_above), ("less", shift.p_below)):
        found = stats.permutation_test(
            (differences, [0.0] * len(differences)),
            lambda x, y, axis: numpy.mean(x - y, axis=axis),
            permutation_type="samples",
            alternative=alternative,
            n_resamples=numpy.inf,
            vectorized=True,
        )
        if abs(shift.estimate) > 1e-9 and _no_ties(shift.typical):
            assert ours == pytest.approx(found.pvalue)


@settings(deadline=None, max_examples=40)
@given(values, values)
def test_unpaired_p_is_scipys(first: list[float], second: list[float]) -> None:
    shift = unpaired_shift(first, second)
    found = stats.permutation_test(
        (second, first),
        lambda x, y, axis: numpy.mean(x, axis=axis) - numpy.mean(y, axis=axis),
        permutation_type="independent",
        alternative="greater",
        n_resamples=numpy.inf,
        vectorized=True,
    )
    if _no_ties(shift.typical):
        assert shift.p_above == pytest.approx(found.pvalue)


def _no_ties(typical: object) -> bool:
    return not numpy.any(numpy.abs(numpy.asarray(typical)) < 1e-6)


@pytest.mark.parametrize("level", [0.90, 0.95])
def test_interval_is_what_the_test_does_not_reject(level: float) -> None:
    differences = [0.31, 0.12, 0.4, -0.05, 0.22, 0.18, 0.27, 0.09]
    interval = paired_shift(differences).interval(level)
    assert interval is not None
    for edge, inside in ((interval[0], 1e-6), (interval[1], -1e-6)):
        within = paired_shift([value - edge - inside for value in differences])
        beyond = paired_shift([value - edge + inside for value in differences])
        assert min(within.p_above, within.p_below) > (1 - level) / 2 >= min(beyond.p_above, beyond.p_below)


def test_unpaired_interval_is_what_the_test_does_not_reject() -> None:
    first, second = [1.0, 1.2, 0.9, 1.1, 1.05], [1.6, 1.4, 1.8, 1.5]
    interval = unpaired_shift(first, second).interval(0.95)
    assert interval is not None
    assert interval[0] > 0
    inside = unpaired_shift(first, [value - interval[0] - 1e-6 for value in second])
    beyond = unpaired_shift(first, [value - interval[0] + 1e-6 for value in second])
    assert inside.p_above > 0.025 >= beyond.p_above


def test_five_pairs_have_no_interval_of_95_percent_and_six_have() -> None:
    assert paired_shift([0.1, 0.2, 0.3, 0.4, 0.5]).interval(0.95) is None
    interval = paired_shift([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).interval(0.95)
    assert interval is not None
    assert interval == pytest.approx((0.1, 0.6))


def test_interval_has_its_coverage() -> None:
    draw = numpy.random.default_rng(3)
    missed = 0
    for _ in range(1500):
        interval = paired_shift(draw.standard_t(3, 7).tolist()).interval(0.9)
        assert interval is not None
        missed += not interval[0] <= 0 <= interval[1]
    assert 0.07 < missed / 1500 < 0.125


def test_p_of_drawn_rearrangements_has_a_lower_limit() -> None:
    shift = paired_shift([0.5 + 0.01 * number for number in range(30)])
    assert shift.p_above == shift.smallest_p == pytest.approx(1 / 10_001, rel=0.01)
    assert math.isclose(paired_shift([0.5] * 30).estimate, 0.5)


def test_equal_measurements_cost_no_power() -> None:
    one = [0.31, 0.12, 0.4, 0.05, 0.22, 0.18, 0.27, 0.09]
    assert step_down([one]) == pytest.approx([paired_shift(one).p_above])
    assert step_down([one] * 5) == pytest.approx([1 / 256] * 5)
    assert step_down([]) == []


def test_other_measurements_raise_p_and_keep_the_order() -> None:
    draw = numpy.random.default_rng(5)
    rows = [(0.9 * (number == 0) + draw.standard_normal(9)).tolist() for number in range(5)]
    raw = [paired_shift(row).p_above for row in rows]
    adjusted = step_down(rows)
    assert all(a >= b for a, b in zip(adjusted, raw, strict=True))
    assert sorted(range(5), key=lambda n: (adjusted[n], raw[n])) == sorted(range(5), key=lambda n: raw[n])


def test_false_alarms_among_several_measurements_stay_below_the_level() -> None:
    draw = numpy.random.default_rng(11)
    alarms = sum(
        min(step_down((draw.standard_normal(7) * 0.7 + draw.standard_normal((5, 7))).tolist())) <= 0.1
        for _ in range(1500)
    )
    assert 0.06 < alarms / 1500 < 0.125


def test_unknown_pair_of_a_measurement_does_not_count() -> None:
    whole = [0.3, 0.4, 0.5, 0.2, 0.3, 0.3]
    with_hole: list[float | None] = [0.3, None, *whole[1:]]
    assert step_down([with_hole]) == pytest.approx(step_down([whole]), rel=0.02)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.04, 0.001, 0.03]) == pytest.approx([0.06, 0.003, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_twenty_nine_updates_see_one_in_ten_with_95_percent() -> None:
    assert updates_needed() == 29
    assert chance_to_see(28) < 0.95 <= chance_to_see(29)


def test_without_an_event_in_29_updates_its_share_is_below_a_tenth() -> None:
    assert at_most(0, 29) < 0.1 < at_most(0, 28)
    assert at_most(0, 0) == 1.0


def test_fishers_test_needs_more_than_one_event() -> None:
    assert more_often(0, 60, 1, 60) == pytest.approx(0.5)
    assert more_often(0, 100, 12, 100) < 0.001
    assert more_often(6, 60, 6, 60) > 0.5


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), max_size=30))
def test_levels_of_all_analyses_add_up_to_alpha_at_most(rounds: list[tuple[float, float]]) -> None:
    used: list[Analysis] = []
    for fraction, smallest, last in (*((*item, False) for item in sorted(rounds)), (0.5, 1.0, True)):
        analysis = next_analysis(sum(item.share for item in used), fraction, smallest, last=last)
        used += [analysis] if analysis else []
    assert sum(item.durations + item.counts for item in used) <= FALSE_ALARM + 1e-12
    assert sum(1 - item.confidence for item in used) <= 0.05 + 1e-12


def test_share_of_an_analysis_that_could_decide_nothing_is_left_for_the_next() -> None:
    assert next_analysis(0.0, 0.5, smallest_p=0.01) is None
    assert next_analysis(0.0, 0.75, smallest_p=0.001) == Analysis(0.75)


def test_last_analysis_has_the_rest() -> None:
    assert next_analysis(0.4, 0.6, 1.0, last=True) == Analysis(0.6)
    assert SINGLE_ANALYSIS.durations + SINGLE_ANALYSIS.counts == FALSE_ALARM
