"""A case's evidence as a guest: figures of each update, what the policy refuses, why figures are discarded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cprlib.campaign.compare.guest import comparison_policy, guest_result
from cprlib.evidence.records import Check, Outcome, Stream
from cprlib.traffic.figures import Interruption, InterruptionPerDirection, PerDirection
from cprlib.verdict.judge import judge
from cprlib.verdict.policy_file import load_policy

from .samples import CASE, guest_evidence, refused

pytestmark = pytest.mark.fast

POLICY = comparison_policy(load_policy("default"))


def test_each_update_has_its_figures() -> None:
    guest = guest_result(judge(guest_evidence(3), POLICY), "results/a")
    assert (guest.case, guest.updates, guest.valid, guest.failures) == (CASE, 3, True, ())
    assert guest.durations["interruption-forward"] == (102.0,) * 3
    assert guest.durations["stop-to-resume"] == (90.0,) * 3
    assert guest.median_ms("time-to-traffic") == 12.0
    assert guest.packets == {"lost": 0, "duplicates": 0, "reordered": 0}
    assert guest.folder == "results/a"


def test_downtime_of_0_ms_is_known() -> None:
    case = guest_evidence(2)
    rows = (replace(case.per_update[0], qemu_downtime_ms=0.0), replace(case.per_update[1], qemu_downtime_ms=None))
    guest = guest_result(judge(replace(case, per_update=rows), POLICY))
    assert guest.durations["qemu-downtime"] == (0.0,)


def test_repetition_has_the_same_case_and_a_number_in_the_name_stays() -> None:
    assert guest_result(judge(guest_evidence(case=f"{CASE}-2"), POLICY)).case == CASE
    own = replace(guest_evidence(case="queues-4"), test="1-x.py:X.test_queues_4")
    assert guest_result(judge(own, POLICY)).case == "queues-4"


def test_points_that_differ_in_their_last_number_are_two_cases() -> None:
    def case_of(point: str, number: str = "") -> str:
        case = guest_evidence(case=f"update-{point}{number}")
        own = replace(case, test=f"1-x.py:X.test_update;run-{point}-3f2a")
        return guest_result(judge(replace(own, parameters=replace(own.parameters, more={"point": point})), POLICY)).case

    assert case_of("q1-10.0-rate-500") == "update-q1-10.0-rate-500"
    assert case_of("q1-10.0-rate-1000") == "update-q1-10.0-rate-1000"
    assert case_of("q1-10.0-rate-500", "-2") == "update-q1-10.0-rate-500"


def test_a_lost_packet_is_refused_and_counted_in_its_update() -> None:
    case = guest_evidence(3)
    rows = (replace(case.per_update[0], loss=PerDirection(2, 0)), *case.per_update[1:])
    guest = guest_result(judge(replace(case, per_update=rows, loss=PerDirection(2, 0)), POLICY))
    assert (guest.packets["lost"], guest.affected["lost"]) == (2, 1)
    assert any(item.about == "loss" and item.text.startswith("2 packets lost forward") for item in guest.failures)


def test_an_update_whose_packets_are_unknown_is_not_counted() -> None:
    case = guest_evidence(3)
    rows = (replace(case.per_update[0], loss=PerDirection(0, None)), *case.per_update[1:])
    assert guest_result(judge(replace(case, per_update=rows), POLICY)).known_updates("lost") == 2
    unmeasured = guest_result(judge(replace(case, per_update=()), POLICY))
    assert (unmeasured.updates, unmeasured.known_updates("lost"), unmeasured.packets) == (3, 0, {})


def test_a_long_interruption_is_left_to_the_comparison() -> None:
    seen = Interruption(6000.0, 6004.0, 0.0, 2.0)
    case = replace(guest_evidence(3), interruption=InterruptionPerDirection(seen, seen))
    assert judge(case, load_policy("default")).outcome == Outcome.FAIL
    assert guest_result(judge(case, POLICY)).failures == ()


def test_duplicates_in_a_pause_too_long_for_the_queue_are_no_failure() -> None:
    seen = Interruption(3000.0, 3004.0, 0.0, 2.0)
    doubled = replace(guest_evidence(3), duplicates=PerDirection(7, 0))
    assert guest_result(judge(doubled, POLICY)).failures
    overlong = guest_result(judge(replace(doubled, interruption=InterruptionPerDirection(seen, seen)), POLICY))
    assert overlong.overlong
    assert overlong.failures == ()


def test_reordered_packets_are_left_to_the_comparison_and_counted() -> None:
    case = guest_evidence(3)
    rows = (replace(case.per_update[0], reordered=PerDirection(7, 0)), *case.per_update[1:])
    flow = Stream("10.0.0.2:21000", "stamp", sent=1000, lost=0, duplicates=0, reordered=7)
    late = replace(case, per_update=rows, reordered=PerDirection(7, 0), streams=(flow,))
    assert judge(late, load_policy("default")).outcome == Outcome.FAIL
    guest = guest_result(judge(late, POLICY))
    assert guest.failures == ()
    assert (guest.packets["reordered"], guest.affected["reordered"]) == (7, 1)
    lost = replace(flow, reordered=0, lost=1)
    assert guest_result(judge(replace(case, streams=(lost,)), POLICY)).failures


def test_failed_check_is_a_failure_however_long_the_pause() -> None:
    case = guest_evidence(3).with_checks(Check("descriptors-same-file", Outcome.FAIL, "a", "b", "another file"))
    assert guest_result(judge(case, POLICY)).failures == (refused("descriptors-same-file", "another file"),)


def test_figures_are_discarded_when_the_instrument_lost_packets() -> None:
    case = guest_evidence(3)
    guest = guest_result(judge(replace(case, instrument=replace(case.instrument, capture_drops=3)), POLICY))
    assert not guest.valid
    assert "the capture lost 3 packets" in guest.problems[0]


def test_case_of_one_update_is_a_guest_with_one_update() -> None:
    guest = guest_result(judge(replace(guest_evidence(1), per_update=()), POLICY))
    assert guest.updates == 1
    assert len(guest.durations["interruption-return"]) == 1
    assert guest.durations["stop-to-resume"] == ()
