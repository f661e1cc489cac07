"""Decisions: a slower B is a regression, an equal one is not, a lost packet is, and noise stays undecided."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cprlib.campaign.compare import Effect
from cprlib.campaign.compare.decide import decide, refusals, smallest_p
from cprlib.campaign.compare.decision import Change, Sample
from cprlib.campaign.compare.guest import GuestResult
from cprlib.campaign.compare.statistics import SINGLE_ANALYSIS, Analysis
from cprlib.evidence.records import Outcome
from cprlib.verdict.findings import Finding

from .samples import CASE, guest, sample


def test_thirty_percent_slower_is_a_regression_in_every_duration() -> None:
    found = decide([sample(1.3)], SINGLE_ANALYSIS, Effect())
    assert found.change == Change.REGRESS
    assert {item.change for item in found.durations} == {Change.REGRESS}
    first = found.durations[0]
    assert first.low is not None
    assert first.high is not None
    assert first.low < 1.3 < first.high
    assert any(text.startswith("STOP to RESUME 1.") for text in found.regressions)
    assert first.noise is not None
    assert first.noise < 0.06


def test_thirty_percent_faster_is_an_improvement() -> None:
    assert decide([sample(1 / 1.3)], SINGLE_ANALYSIS, Effect()).change == Change.IMPROVE


@pytest.mark.parametrize("paired", [True, False])
def test_duration_of_0_is_compared(paired: bool) -> None:
    none, long = (guest(0.0),) * 8, (guest(20.0),) * 8
    same = decide([Sample(CASE, none, none, paired)], SINGLE_ANALYSIS, Effect())
    assert {item.change for item in same.durations} == {Change.SAME}
    longer = decide([Sample(CASE, none, long, paired)], SINGLE_ANALYSIS, Effect())
    assert {item.change for item in longer.durations} == {Change.REGRESS}


@pytest.mark.parametrize("seed", range(20))
def test_equals_are_no_regression(seed: int) -> None:
    found = decide([sample(1.0, seed=seed, scatter=0.2)], SINGLE_ANALYSIS, Effect())
    assert found.change != Change.REGRESS
    assert not found.regressions


def test_equals_with_little_noise_show_no_difference() -> None:
    found = decide([sample(1.0)], SINGLE_ANALYSIS, Effect())
    assert found.change == Change.SAME
    assert not found.undecided


def test_significant_difference_that_is_too_small_is_none() -> None:
    found = decide([sample(1.05, scatter=0.005)], SINGLE_ANALYSIS, Effect())
    assert found.durations[0].worse < 0.01
    assert found.change == Change.SAME


def test_noise_leaves_it_undecided() -> None:
    found = decide([sample(1.3, scatter=0.8)], SINGLE_ANALYSIS, Effect())
    assert found.change == Change.UNDECIDED
    assert len(found.undecided) == 5


def test_level_spent_by_earlier_analyses_is_missing() -> None:
    assert decide([sample(1.3, pairs=10)], SINGLE_ANALYSIS, Effect()).change == Change.REGRESS
    assert decide([sample(1.3, pairs=10)], Analysis(0.1), Effect()).change == Change.UNDECIDED


def test_a_few_ms_of_a_short_time_do_not_matter() -> None:
    short = Sample(
        CASE, tuple(guest(4.0 + n / 50) for n in range(12)), tuple(guest(6 + n / 40) for n in range(12)), True
    )
    found = decide([short], SINGLE_ANALYSIS, Effect())
    assert found.durations[0].effect == pytest.approx(5 / 4.11, rel=0.01)
    assert found.change == Change.SAME


def test_one_lost_packet_of_b_is_a_regression_by_itself() -> None:
    good = tuple(guest() for _ in range(12))
    found = decide([Sample(CASE, good, (*good[:11], guest(lost=[1])), True)], SINGLE_ANALYSIS, Effect())
    assert found.change == Change.REGRESS
    refusal = found.refusals[0]
    assert (refusal.guests, refusal.of, refusal.a_guests, refusal.change) == (1, 12, 0, Change.REGRESS)
    assert found.counts[0].worse > 0.05  # no test of counts would have said so


def test_a_check_that_fails_at_two_updates_is_refused_once() -> None:
    def failing(step: int) -> GuestResult:
        finding = Finding(Outcome.FAIL, f"update-{step}-same-file", "another file", family="same-file")
        return guest(failures=(finding,))

    good = (guest(), guest())
    (refusal,) = refusals(Sample(CASE, good, (failing(1), failing(2)), True))
    assert (refusal.guests, refusal.of, refusal.a_guests) == (2, 2, 0)
    assert refusals(Sample(CASE, (failing(3), guest()), (failing(1), guest()), True))[0].a_guests == 1


def test_refusal_that_a_has_as_well_is_no_regression() -> None:
    both = tuple(guest(lost=[1] if number == 3 else []) for number in range(12))
    found = decide([Sample(CASE, both, both, True)], SINGLE_ANALYSIS, Effect())
    assert found.refusals[0].a_guests == 1
    assert found.change == Change.SAME


@pytest.mark.parametrize(("in_b", "change"), [(12, Change.REGRESS), (3, Change.UNDECIDED), (1, Change.SAME)])
def test_refusal_that_a_has_as_well_is_decided_by_its_number(in_b: int, change: Change) -> None:
    bad = guest(failures=(Finding(Outcome.FAIL, "descriptor-flags", "O_CLOEXEC is missing"),))
    a, b = ((bad,) * count + (guest(),) * (12 - count) for count in (1, in_b))
    found = decide([Sample(CASE, a, b, True)], SINGLE_ANALYSIS, Effect())
    assert (found.refusals[0].guests, found.refusals[0].change, found.change) == (in_b, change, change)
    assert ("descriptor-flags" in str(found.undecided)) == (change == Change.UNDECIDED)


def test_losing_far_more_often_than_a_is_a_regression_of_the_count() -> None:
    a = tuple(guest(lost=[1] if number == 3 else []) for number in range(12))
    b = tuple(guest(lost=[1, 1]) for _ in range(12))
    found = decide([Sample(CASE, a, b, True)], SINGLE_ANALYSIS, Effect())
    assert [item.change for item in found.counts if item.metric.name == "lost"] == [Change.REGRESS]
    assert found.change == Change.REGRESS


def test_packets_reordered_in_many_guests_of_b_and_none_of_a_are_a_regression() -> None:
    def late(count: int) -> tuple[GuestResult, ...]:
        bad = guest(packets={"reordered": 5}, affected={"reordered": 2})
        return (bad,) * count + (guest(),) * (12 - count)

    often = decide([Sample(CASE, late(0), late(9), True)], SINGLE_ANALYSIS, Effect())
    assert [item.change for item in often.counts if item.metric.name == "reordered"] == [Change.REGRESS]
    once = decide([Sample(CASE, late(0), late(1), True)], SINGLE_ANALYSIS, Effect())
    assert once.change != Change.REGRESS  # six updates of one guest have one cause


def test_too_few_updates_leave_rare_losses_undecided() -> None:
    few = tuple(guest(updates=2) for _ in range(12))
    found = decide([Sample(CASE, few, few, True)], SINGLE_ANALYSIS, Effect())
    assert [item.change for item in found.counts] == [Change.UNDECIDED] * 3
    assert found.change == Change.UNDECIDED


def test_pair_with_a_discarded_guest_does_not_count() -> None:
    measured = sample(1.3)
    discarded = Sample(
        CASE, (*measured.a, guest(problems=("control run: 3 lost",))), (*measured.b, guest(9000.0)), True
    )
    found = decide([discarded], SINGLE_ANALYSIS, Effect())
    assert len(found.durations[0].b_values) == 12
    assert found.durations[0].b == decide([measured], SINGLE_ANALYSIS, Effect()).durations[0].b


def test_without_a_valid_guest_the_problem_is_reported() -> None:
    bad = (guest(problems=("instrument: the capture lost 3 packets",)),)
    found = decide([Sample(CASE, bad, bad, True)], SINGLE_ANALYSIS, Effect())
    assert found.change == Change.UNDECIDED
    assert "the capture lost 3 packets" in found.problems[0]


def test_one_pair_decides_no_duration() -> None:
    found = decide([Sample(CASE, (guest(100.0),), (guest(900.0),), True)], SINGLE_ANALYSIS, Effect())
    assert found.durations[0].ratio is None
    assert found.change == Change.UNDECIDED


def test_a_feature_that_b_lacks_is_a_regression() -> None:
    gone = tuple(guest(updates=0, skipped="no-cpr: not supported by this QEMU") for _ in range(2))
    found = decide([Sample(CASE, (guest(), guest()), gone, True)], SINGLE_ANALYSIS, Effect())
    assert found.change == Change.REGRESS
    assert "skipped: no-cpr" in found.regressions[0]


def test_counts_of_a_guest_with_a_pause_too_long_for_the_queue_do_not_count() -> None:
    long = replace(guest(lost=[5]), failures=(), overlong=True)
    found = decide([Sample(CASE, (guest(),) * 12, (*((guest(),) * 11), long), True)], SINGLE_ANALYSIS, Effect())
    assert (found.counts[0].b, found.counts[0].b_updates) == (0, 110)
    assert not found.refusals


def test_only_updates_whose_packets_are_known_count() -> None:
    half = guest(unknown={"lost": 5})
    found = decide([Sample(CASE, (guest(),) * 12, (half,) * 12, True)], SINGLE_ANALYSIS, Effect())
    assert (found.counts[0].metric.name, found.counts[0].a_updates, found.counts[0].b_updates) == ("lost", 120, 60)
    unmeasured = guest(packets={}, affected={}, unknown=dict.fromkeys(("lost", "duplicates", "reordered"), 10))
    found = decide([Sample(CASE, (unmeasured,) * 12, (unmeasured,) * 12, True)], SINGLE_ANALYSIS, Effect())
    assert found.counts == ()


def test_saved_runs_are_compared_unpaired() -> None:
    slower = sample(1.4, pairs=8, scatter=0.02)
    calm = Sample(CASE, tuple(guest(170.0 + n) for n in range(8)), tuple(guest(230.0 + n) for n in range(6)), False)
    assert decide([calm], SINGLE_ANALYSIS, Effect()).change == Change.REGRESS
    unpaired = replace(slower, paired=False)  # with the drift of the machine
    assert decide([unpaired], SINGLE_ANALYSIS, Effect()).change == Change.UNDECIDED


def test_more_pairs_allow_a_smaller_p() -> None:
    assert smallest_p([sample(1.0, pairs=8)]) == pytest.approx(1 / 256)
    assert smallest_p([sample(1.0, pairs=11)]) == pytest.approx(1 / 2048)
    assert smallest_p([]) == 1.0
