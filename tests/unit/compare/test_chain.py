"""A case's evidence as a chain: figures of each update, what the policy refuses, and what is not believed."""

from __future__ import annotations

from dataclasses import replace

from cprlib.campaign.compare.chain import chain_of
from cprlib.evidence.case import (
    Check,
    Interruption,
    InterruptionPerDirection,
    Outcome,
    PerDirection,
    Stream,
)
from cprlib.verdict.judge import judge
from cprlib.verdict.policy_file import load_policy

from .samples import CASE, chain_evidence

POLICY = load_policy("default")


def test_each_update_has_its_figures() -> None:
    chain = chain_of(judge(chain_evidence(3), POLICY), "cells/a")
    assert (chain.case, chain.updates, chain.believed, chain.failures) == (CASE, 3, True, ())
    assert chain.durations["interruption-forward"] == (102.0,) * 3
    assert chain.durations["stop-to-resume"] == (90.0,) * 3
    assert chain.middle("time-to-traffic") == 12.0
    assert chain.packets == {"lost": 0, "duplicates": 0, "reordered": 0}
    assert chain.folder == "cells/a"


def test_a_repetition_is_of_the_same_case_and_a_number_of_the_tests_own_stays() -> None:
    assert chain_of(judge(chain_evidence(case=f"{CASE}-2"), POLICY)).case == CASE
    own = replace(chain_evidence(case="queues-4"), test="1-x.py:X.test_queues_4")
    assert chain_of(judge(own, POLICY)).case == "queues-4"


def test_a_lost_packet_is_refused_and_counted_in_its_update() -> None:
    case = chain_evidence(3)
    rows = (replace(case.per_update[0], loss=PerDirection(2, 0)), *case.per_update[1:])
    chain = chain_of(judge(replace(case, per_update=rows, loss=PerDirection(2, 0)), POLICY))
    assert (chain.packets["lost"], chain.affected["lost"]) == (2, 1)
    assert any(text.startswith("loss: 2 packets lost forward") for text in chain.failures)


def test_a_long_interruption_is_left_to_the_comparison() -> None:
    seen = Interruption(6000.0, 6004.0, 0.0, 2.0)
    case = replace(chain_evidence(3), interruption=InterruptionPerDirection(seen, seen))
    judged = judge(case, POLICY)
    assert judged.outcome == Outcome.FAIL
    assert chain_of(judged).failures == ()


def test_packets_doubled_in_a_pause_too_long_for_the_queue_accuse_nobody() -> None:
    seen = Interruption(3000.0, 3004.0, 0.0, 2.0)
    doubled = replace(chain_evidence(3), duplicates=PerDirection(7, 0))
    assert chain_of(judge(doubled, POLICY)).failures
    long = chain_of(judge(replace(doubled, interruption=InterruptionPerDirection(seen, seen)), POLICY))
    assert long.overlong
    assert long.failures == ()


def test_reordered_packets_are_left_to_the_comparison_and_counted() -> None:
    case = chain_evidence(3)
    rows = (replace(case.per_update[0], reordered=PerDirection(7, 0)), *case.per_update[1:])
    flow = Stream("10.0.0.2:21000", "stamp", sent=1000, lost=0, duplicates=0, reordered=7)
    judged = judge(replace(case, per_update=rows, reordered=PerDirection(7, 0), streams=(flow,)), POLICY)
    assert judged.outcome == Outcome.FAIL
    chain = chain_of(judged)
    assert chain.failures == ()
    assert (chain.packets["reordered"], chain.affected["reordered"]) == (7, 1)
    lost = replace(flow, reordered=0, lost=1)
    assert chain_of(judge(replace(case, streams=(lost,)), POLICY)).failures


def test_a_failed_check_stays_one_however_long_the_pause() -> None:
    case = chain_evidence(3).with_checks(Check("descriptors-same-file", Outcome.FAIL, "a", "b", "another file"))
    assert chain_of(judge(case, POLICY)).failures == ("descriptors-same-file: another file",)


def test_what_the_instrument_lost_is_not_believed() -> None:
    case = chain_evidence(3)
    chain = chain_of(judge(replace(case, instrument=replace(case.instrument, own_drops=3)), POLICY))
    assert not chain.believed
    assert "the capture itself lost 3 packets" in chain.doubts[0]


def test_a_case_of_one_update_is_a_chain_of_one() -> None:
    chain = chain_of(judge(replace(chain_evidence(1), per_update=()), POLICY))
    assert chain.updates == 1
    assert len(chain.durations["interruption-return"]) == 1
    assert chain.durations["stop-to-resume"] == ()
