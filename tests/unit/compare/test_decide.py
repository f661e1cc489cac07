"""What is said of A and B: slower is told, equal is not accused, a lost packet is one, and doubt stays doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cprlib.campaign.compare.chain import Chain
from cprlib.campaign.compare.decide import decide, smallest_p
from cprlib.campaign.compare.findings import Change, Effect, Sample
from cprlib.campaign.compare.looks import ONCE, Look

from .samples import CASE, chain, sample


def test_thirty_percent_slower_is_a_regression_in_every_duration() -> None:
    found = decide([sample(1.3)], ONCE, Effect())
    assert found.change == Change.REGRESS
    assert {item.change for item in found.durations} == {Change.REGRESS}
    first = found.durations[0]
    assert first.low is not None
    assert first.high is not None
    assert first.low < 1.3 < first.high
    assert any(text.startswith("STOP to RESUME 1.") for text in found.regressions)
    assert first.noise is not None
    assert first.drift is not None
    assert first.noise < 0.06
    assert first.drift > 0.2


def test_thirty_percent_faster_is_an_improvement() -> None:
    assert decide([sample(1 / 1.3)], ONCE, Effect()).change == Change.IMPROVE


@pytest.mark.parametrize("seed", range(20))
def test_equals_are_never_accused(seed: int) -> None:
    found = decide([sample(1.0, seed=seed, scatter=0.2)], ONCE, Effect())
    assert found.change != Change.REGRESS
    assert not found.regressions


def test_equals_with_little_noise_are_no_different() -> None:
    found = decide([sample(1.0)], ONCE, Effect())
    assert found.change == Change.SAME
    assert not found.undecided


def test_a_difference_that_is_sure_and_too_small_to_matter_is_none() -> None:
    found = decide([sample(1.05, scatter=0.005)], ONCE, Effect())
    assert found.durations[0].worse < 0.01
    assert found.change == Change.SAME


def test_noise_leaves_it_undecided() -> None:
    found = decide([sample(1.3, scatter=0.8)], ONCE, Effect())
    assert found.change == Change.UNDECIDED
    assert len(found.undecided) == 5


def test_a_level_used_up_by_earlier_looks_accuses_less() -> None:
    assert decide([sample(1.3, pairs=10)], ONCE, Effect()).change == Change.REGRESS
    assert decide([sample(1.3, pairs=10)], Look(0.1), Effect()).change == Change.UNDECIDED


def test_a_few_ms_of_a_short_time_do_not_matter() -> None:
    short = Sample(
        CASE, tuple(chain(4.0 + n / 50) for n in range(12)), tuple(chain(6 + n / 40) for n in range(12)), True
    )
    found = decide([short], ONCE, Effect())
    assert found.durations[0].effect == pytest.approx(5 / 4.11, rel=0.01)
    assert found.change == Change.SAME


def test_one_lost_packet_of_b_is_a_regression_by_itself() -> None:
    good = tuple(chain() for _ in range(12))
    found = decide([Sample(CASE, good, (*good[:11], chain(lost=[1])), True)], ONCE, Effect())
    assert found.change == Change.REGRESS
    accused = found.accusations[0]
    assert (accused.chains, accused.of, accused.also_a) == (1, 12, False)
    assert found.counts[0].worse > 0.05  # no test of counts would have said so


def test_what_a_does_as_well_does_not_accuse_b() -> None:
    both = tuple(chain(lost=[1] if number == 3 else []) for number in range(12))
    found = decide([Sample(CASE, both, both, True)], ONCE, Effect())
    assert found.accusations[0].also_a
    assert found.change == Change.SAME


def test_losing_far_more_often_than_a_is_a_regression_of_the_count() -> None:
    a = tuple(chain(lost=[1] if number == 3 else []) for number in range(12))
    b = tuple(chain(lost=[1, 1]) for _ in range(12))
    found = decide([Sample(CASE, a, b, True)], ONCE, Effect())
    assert [item.change for item in found.counts if item.metric.name == "lost"] == [Change.REGRESS]
    assert found.change == Change.REGRESS


def test_packets_reordered_in_many_guests_of_b_and_none_of_a_are_a_regression() -> None:
    def late(count: int) -> tuple[Chain, ...]:
        bad = chain(packets={"reordered": 5}, affected={"reordered": 2})
        return (bad,) * count + (chain(),) * (12 - count)

    often = decide([Sample(CASE, late(0), late(9), True)], ONCE, Effect())
    assert [item.change for item in often.counts if item.metric.name == "reordered"] == [Change.REGRESS]
    once = decide([Sample(CASE, late(0), late(1), True)], ONCE, Effect())
    assert once.change != Change.REGRESS  # six updates of one guest have one cause


def test_too_few_updates_leave_rare_losses_undecided() -> None:
    few = tuple(chain(updates=2) for _ in range(12))
    found = decide([Sample(CASE, few, few, True)], ONCE, Effect())
    assert [item.change for item in found.counts] == [Change.UNDECIDED] * 3
    assert found.change == Change.UNDECIDED


def test_a_pair_of_which_one_is_doubted_counts_for_nothing() -> None:
    measured = sample(1.3)
    doubted = Sample(CASE, (*measured.a, chain(doubts=("control run: 3 lost",))), (*measured.b, chain(9000.0)), True)
    found = decide([doubted], ONCE, Effect())
    assert len(found.durations[0].b_values) == 12
    assert found.durations[0].b == decide([measured], ONCE, Effect()).durations[0].b


def test_without_a_chain_that_is_believed_the_doubt_is_told() -> None:
    bad = (chain(doubts=("instrument: the capture itself lost 3 packets",)),)
    found = decide([Sample(CASE, bad, bad, True)], ONCE, Effect())
    assert found.change == Change.UNDECIDED
    assert "the capture itself lost 3 packets" in found.problems[0]


def test_one_pair_says_nothing_of_durations() -> None:
    found = decide([Sample(CASE, (chain(100.0),), (chain(900.0),), True)], ONCE, Effect())
    assert found.durations[0].ratio is None
    assert found.change == Change.UNDECIDED


def test_a_feature_that_b_lacks_is_a_regression() -> None:
    gone = tuple(chain(updates=0, skipped="no-cpr: not supported by this QEMU") for _ in range(2))
    found = decide([Sample(CASE, (chain(), chain()), gone, True)], ONCE, Effect())
    assert found.change == Change.REGRESS
    assert "skipped: no-cpr" in found.regressions[0]


def test_counts_of_a_chain_with_a_pause_too_long_for_the_queue_accuse_nobody() -> None:
    long = replace(chain(lost=[5]), failures=(), overlong=True)
    found = decide([Sample(CASE, (chain(),) * 12, (*((chain(),) * 11), long), True)], ONCE, Effect())
    assert (found.counts[0].b, found.counts[0].b_updates) == (0, 110)
    assert not found.accusations


def test_saved_runs_are_held_against_each_other_unpaired() -> None:
    slower = sample(1.4, pairs=8, scatter=0.02)
    calm = Sample(CASE, tuple(chain(170.0 + n) for n in range(8)), tuple(chain(230.0 + n) for n in range(6)), False)
    assert decide([calm], ONCE, Effect()).change == Change.REGRESS
    assert decide([replace(slower, paired=False)], ONCE, Effect()).change == Change.UNDECIDED  # the drift stays in


def test_more_pairs_allow_a_smaller_p() -> None:
    assert smallest_p([sample(1.0, pairs=8)]) == pytest.approx(1 / 256)
    assert smallest_p([sample(1.0, pairs=11)]) == pytest.approx(1 / 2048)
    assert smallest_p([sample(1.0, pairs=4, paired=False)]) == pytest.approx(5 / 70)  # Holm's, for five metrics
    assert smallest_p([]) == 1.0
