"""Verdicts: good evidence passes, each fault fails, and each gap in the evidence is inconclusive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from msgspec import structs

from cprlib.errors import SkipWord
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import (
    FLOW,
    Budget,
    Check,
    DescriptorCount,
    GuestFact,
    InstrumentHealth,
    Outcome,
    Role,
    Stream,
)
from cprlib.traffic.figures import Cause, Direction, Interruption, InterruptionPerDirection, LedgerRow, PerDirection
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.judge import judge, judge_run
from cprlib.verdict.policy import NOT_ASKED_FOR, InterruptionLimits, Policy
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case

pytestmark = pytest.mark.fast

STRICT = Policy()
DEFAULT = load_policy("default")
Change = Callable[[CaseEvidence], CaseEvidence]


def instrument(**changes: object) -> Change:
    return lambda case: replace(case, instrument=replace(case.instrument, **changes))  # type: ignore[arg-type]


def changed(**changes: object) -> Change:
    return lambda case: replace(case, **changes)  # type: ignore[arg-type]


def check(outcome: Outcome) -> Change:
    return lambda case: case.with_checks(Check("mac-table", outcome, "same", "other"))


def without_check(name: str) -> Change:
    return lambda case: replace(case, checks=tuple(each for each in case.checks if each.name != name))


def pause(low: float, high: float) -> InterruptionPerDirection:
    return InterruptionPerDirection(Interruption(low, high, 0.0, 1.0), Interruption(low, high, 0.0, 1.0))


def lost(count: int, cause: Cause) -> tuple[LedgerRow, ...]:
    return (LedgerRow("tap0 queue", Direction.FORWARD, "STOP to RESUME", "tx_dropped", count, cause),)


@pytest.mark.parametrize("policy", ["strict", "default", "slow-machine"])
def test_good_evidence_passes(policy: str) -> None:
    judged = judge(good_case(), load_policy(policy))
    assert judged.verdict.findings[0].text
    assert judged.outcome == Outcome.PASS


@pytest.mark.parametrize(
    "change",
    [
        changed(loss=PerDirection(2, 0)),
        changed(loss=PerDirection(0, 1)),
        changed(duplicates=PerDirection(1, 0)),
        changed(reordered=PerDirection(0, 3)),
        changed(unexplained=1),
        changed(fds=DescriptorCount(1, 1)),
        lambda case: replace(case, descriptors=(replace(case.descriptors[0], same_file=False),)),
        check(Outcome.FAIL),
        changed(guest_view=(GuestFact("mac", "a", "b"),)),
        changed(streams=(Stream("tcp out", "tcp", sent=9, lost=1),)),
        changed(streams=(Stream("tcp out", "tcp", sent=9, lost=0, longest_stall_ms=15001.0),)),
        changed(
            streams=(Stream("from the guest", "stamp", 9, lost=0, duplicates=0, reordered=0, longest_stall_ms=15001.0),)
        ),
        changed(streams=(Stream("udp out", "udp", sent=9, lost=0, duplicates=0, reordered=1),)),
        changed(interruption=pause(5100.0, 5101.0)),
    ],
)
def test_each_fault_fails(change: Change) -> None:
    assert judge(change(good_case()), DEFAULT).outcome == Outcome.FAIL


@pytest.mark.parametrize(
    "change",
    [
        changed(sent=0),
        changed(sent=None),
        changed(sent=99),
        changed(updates=0),
        changed(updates=None),
        changed(loss=PerDirection(0, None)),
        changed(duplicates=PerDirection()),
        changed(reordered=PerDirection()),
        changed(interruption=InterruptionPerDirection()),
        changed(interruption=pause(4999.0, 5001.0)),
        changed(ledger=()),
        changed(unexplained=None),
        changed(fds=DescriptorCount()),
        changed(fds=DescriptorCount(0, 0)),
        changed(fds=DescriptorCount(1, 0)),
        changed(streams=(Stream("udp out", "udp", sent=0),)),
        changed(streams=(Stream("udp out", "udp", sent=5),)),
        changed(guest_view=(GuestFact("mac", "a", None),)),
        changed(retries=2),
        check(Outcome.INCONCLUSIVE),
        check(Outcome.SKIP),
        without_check("vhost-worker"),
        without_check("no-downgrade"),
        instrument(capture_drops=1),
        instrument(capture_drops=None),
        instrument(reflector_drops=1),
        instrument(reflector_drops=None),
        instrument(reflector_alive=False),
        instrument(reflector_alive=None),
        instrument(pacing_p99_us=190_000.0),
        instrument(pacing_p99_us=None),
        instrument(control_run_lost=1),
        instrument(control_run_lost=None),
        instrument(control_run_sent=0),
        instrument(missing_counters=("tap0 tx_dropped",)),
    ],
)
def test_each_gap_is_inconclusive(change: Change) -> None:
    assert judge(change(good_case()), DEFAULT).outcome == Outcome.INCONCLUSIVE


def test_evidence_without_content_is_inconclusive() -> None:
    for role in Role:
        assert judge(CaseEvidence("x", Mechanism.CPR, role), DEFAULT).outcome == Outcome.INCONCLUSIVE


def test_no_single_member_is_needed_for_a_pass_by_default() -> None:
    """Taking any one known figure away never makes a failing case pass."""
    bad = changed(loss=PerDirection(2, 0), fds=DescriptorCount(1, 1))(good_case())
    empty = CaseEvidence("x", Mechanism.CPR)
    for field in fields(CaseEvidence):
        if field.name not in ("id", "mechanism", "role"):
            assert judge(replace(bad, **{field.name: getattr(empty, field.name)}), DEFAULT).outcome != Outcome.PASS


def test_loss_is_discarded_when_the_capture_lost_packets() -> None:
    judged = judge(instrument(capture_drops=2)(changed(loss=PerDirection(2, 0))(good_case())), DEFAULT)
    assert judged.outcome == Outcome.INCONCLUSIVE
    assert any("discarded: " in finding.text for finding in judged.verdict.findings)


@pytest.mark.parametrize(
    "machine",
    [
        instrument(capture_drops=900),
        instrument(reflector_drops=900),
        instrument(reflector_alive=False),
        instrument(pacing_p99_us=900_000.0),
        instrument(control_run_lost=900),
        instrument(control_run_sent=0),
        instrument(missing_counters=("tap0 tx_dropped",)),
    ],
)
@pytest.mark.parametrize(
    "traffic",
    [
        changed(loss=PerDirection(900, 900)),
        changed(duplicates=PerDirection(900, 0)),
        changed(reordered=PerDirection(0, 900)),
        changed(interruption=pause(90_000.0, 90_001.0)),
        changed(unexplained=900),
        changed(streams=(Stream("TCP to the guest", "tcp", sent=9, lost=9),)),
    ],
)
def test_no_figure_of_the_traffic_fails_on_a_machine_that_cannot_measure(machine: Change, traffic: Change) -> None:
    assert judge(traffic(good_case()), DEFAULT).outcome == Outcome.FAIL
    assert judge(machine(traffic(good_case())), DEFAULT).outcome == Outcome.INCONCLUSIVE


def test_what_the_control_run_showed_already_is_no_finding_about_the_update() -> None:
    """The control run reordered packets too, which makes the measurement invalid."""
    reordered = changed(reordered=PerDirection(15, 0))(good_case())
    assert judge(reordered, DEFAULT).outcome == Outcome.FAIL
    invalid = Check("instrument", Outcome.INCONCLUSIVE, "no problem", "control run: 2 of 7990 packets reordered")
    judged = judge(reordered.with_checks(invalid), DEFAULT)
    assert judged.outcome == Outcome.INCONCLUSIVE
    assert any("discarded: 15 reordered" in finding.text for finding in judged.verdict.findings)


def test_a_machine_that_stands_still_by_itself_is_not_held_to_a_time() -> None:
    slow = changed(interruption=pause(7679.0, 7683.0))(good_case())
    assert judge(slow, DEFAULT).outcome == Outcome.FAIL
    judged = judge(instrument(control_run_interruption_ms=407.0)(slow), DEFAULT)
    assert judged.outcome == Outcome.INCONCLUSIVE
    assert "the longest gap in the control run was 407 ms" in judged.verdict.reasons[0].text


@pytest.mark.parametrize(
    ("low_ms", "outcome"), [(5_100.0, Outcome.INCONCLUSIVE), (5_300.0, Outcome.FAIL), (60_000.0, Outcome.FAIL)]
)
def test_a_short_standstill_does_not_explain_a_pause_of_any_length(low_ms: float, outcome: Outcome) -> None:
    busy = instrument(control_run_interruption_ms=260.0)(good_case())
    assert judge(changed(interruption=pause(low_ms, low_ms + 4))(busy), DEFAULT).outcome == outcome


def test_the_sending_period_is_no_standstill_of_the_machine() -> None:
    """At 15 packets/s each gap is 67 ms."""
    slow = Interruption(5_200.0, 5_333.0, 0.0, resolution_ms=66.7)
    case = changed(interruption=InterruptionPerDirection(slow, slow))(
        instrument(control_run_interruption_ms=330.0)(good_case())
    )
    assert judge(case, DEFAULT).outcome == Outcome.INCONCLUSIVE
    assert judge(instrument(control_run_interruption_ms=320.0)(case), DEFAULT).outcome == Outcome.FAIL


def test_an_interruption_that_the_reflector_alone_explains_is_inconclusive() -> None:
    late = changed(interruption=InterruptionPerDirection(pause(400.0, 401.0).forward, pause(7104.0, 7106.0).return_))
    case = late(good_case())
    assert judge(instrument(reflector_lag_ms=2000.0)(case), DEFAULT).outcome == Outcome.FAIL
    judged = judge(instrument(reflector_lag_ms=15_000.0)(case), DEFAULT)
    assert judged.outcome == Outcome.INCONCLUSIVE
    assert "answered packets up to 15,000 ms late" in judged.verdict.reasons[0].text
    stopped = changed(interruption=pause(7104.0, 7106.0))(case)  # in both directions: it did not even receive
    assert judge(instrument(reflector_lag_ms=15_000.0)(stopped), DEFAULT).outcome == Outcome.FAIL


def test_vhost_of_its_own_is_no_missing_partner_where_the_mechanism_keeps_the_tap_only() -> None:
    vhost = replace(good_case().descriptors[1], same_file=None)
    local = replace(good_case(), mechanism=Mechanism.LOCAL, fds=DescriptorCount(1, 0))
    local = replace(local, descriptors=(local.descriptors[0], vhost))
    assert judge(local, DEFAULT).outcome == Outcome.PASS
    assert judge(replace(local, mechanism=Mechanism.CPR), DEFAULT).outcome == Outcome.INCONCLUSIVE


def test_failed_check_stands_when_the_instrument_does_not() -> None:
    assert judge(check(Outcome.FAIL)(instrument(capture_drops=2)(good_case())), DEFAULT).outcome == Outcome.FAIL


@pytest.mark.parametrize(
    ("cause", "interruption_ms", "default", "strict"),
    [
        (Cause.UPDATE, 300.0, Outcome.FAIL, Outcome.FAIL),
        (Cause.UNKNOWN, 1400.0, Outcome.FAIL, Outcome.FAIL),
        (Cause.OVERFLOW, 1400.0, Outcome.INCONCLUSIVE, Outcome.FAIL),
        (Cause.OVERFLOW, 300.0, Outcome.FAIL, Outcome.FAIL),  # the queue had room: its reader did not read
        (Cause.GUEST, 300.0, Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE),
        (Cause.INSTRUMENT, 300.0, Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE),
    ],
)
def test_loss_is_laid_at_the_right_door(
    cause: Cause, interruption_ms: float, default: Outcome, strict: Outcome
) -> None:
    case = replace(
        good_case(),
        loss=PerDirection(5, 0),
        missing=lost(5, cause),
        budget=Budget(1000, 1000.0),
        interruption=pause(interruption_ms, interruption_ms + 1),
    )
    assert judge(case, DEFAULT).outcome == default
    assert judge(case, STRICT).outcome == strict


def test_overflow_excuses_only_its_own_packets() -> None:
    case = replace(
        good_case(), loss=PerDirection(7, 0), missing=lost(5, Cause.OVERFLOW), interruption=pause(1400.0, 1401.0)
    )
    assert judge(case, DEFAULT).outcome == Outcome.FAIL


@pytest.mark.parametrize(("interruption_ms", "outcome"), [(1400.0, Outcome.INCONCLUSIVE), (300.0, Outcome.FAIL)])
def test_overlong_pause_explains_answers_to_the_guest_that_the_queue_had_no_room_for(
    interruption_ms: float, outcome: Outcome
) -> None:
    case = replace(
        good_case(),
        loss=PerDirection(5, 0),
        missing=lost(5, Cause.OVERFLOW),
        streams=(Stream("from the guest", "stamp", sent=9, lost=5, duplicates=0, reordered=0, lost_from_guest=0),),
        budget=Budget(1000, 1000.0),
        interruption=pause(interruption_ms, interruption_ms + 1),
    )
    assert judge(case, DEFAULT).outcome == outcome
    for change in ({"lost": 6}, {"lost_from_guest": 1}, {"kind": "tcp"}):
        other = replace(case, streams=(replace(case.streams[0], **change),))
        assert judge(other, DEFAULT).outcome == Outcome.FAIL


@pytest.mark.parametrize("kind", ["stamp", "tcp"])
@pytest.mark.parametrize(
    ("stall_ms", "pause_ms", "outcome"),
    [
        (33_000.0, 6000.0, Outcome.INCONCLUSIVE),
        (33_100.0, 6000.0, Outcome.FAIL),
        (500_000.0, 6000.0, Outcome.FAIL),
        (16_000.0, 900.0, Outcome.FAIL),
    ],
)
def test_overlong_pause_explains_a_stall_of_a_few_times_its_length(
    kind: str, stall_ms: float, pause_ms: float, outcome: Outcome
) -> None:
    stream = Stream("from the guest", kind, sent=9, lost=0, duplicates=0, reordered=0, longest_stall_ms=stall_ms)
    case = replace(
        good_case(), streams=(stream,), budget=Budget(1000, 1000.0), interruption=pause(pause_ms - 1, pause_ms)
    )
    policy = structs.replace(DEFAULT, interruption=InterruptionLimits(max_ms=None))
    assert judge(case, policy).outcome == outcome


def test_flows_of_the_main_stream_are_judged_once() -> None:
    flow = Stream("ipv4:20048", FLOW, sent=9, lost=5, duplicates=0, reordered=9)
    case = replace(good_case(), loss=PerDirection(5, 0), missing=lost(5, Cause.GUEST), streams=(flow,))
    assert judge(case, DEFAULT).outcome == Outcome.INCONCLUSIVE
    assert judge(replace(case, streams=(replace(flow, kind="stamp"),)), DEFAULT).outcome == Outcome.FAIL


def test_control_run_with_a_loss_is_inconclusive() -> None:
    case = replace(good_case(), role=Role.CONTROL_RUN, mechanism=Mechanism.NONE, loss=PerDirection(1, 0))
    assert judge(case, DEFAULT).outcome == Outcome.INCONCLUSIVE
    assert judge(replace(case, loss=PerDirection(0, 0)), DEFAULT).outcome == Outcome.PASS


def test_a_guest_that_changes_without_an_update_accuses_no_qemu() -> None:
    joined = changed(guest_view=(GuestFact("multicast filter", "a", "a b"),))(good_case())
    assert judge(joined, DEFAULT).outcome == Outcome.FAIL
    control_run = replace(joined, role=Role.CONTROL_RUN, mechanism=Mechanism.NONE)
    assert judge(control_run, DEFAULT).outcome == Outcome.INCONCLUSIVE


def test_negative_control_has_to_lose() -> None:
    case = replace(good_case(), role=Role.NEGATIVE_CONTROL, mechanism=Mechanism.LINK_SWITCH, fds=DescriptorCount())
    assert judge(case, DEFAULT).outcome == Outcome.INCONCLUSIVE
    assert judge(replace(case, loss=PerDirection(120, 3)), DEFAULT).outcome == Outcome.PASS
    assert judge(replace(case, loss=PerDirection(120, 3), sent=0), DEFAULT).outcome == Outcome.INCONCLUSIVE


def test_checks_alone_can_pass() -> None:
    case = CaseEvidence("x", Mechanism.CPR, Role.CHECKS, checks=(Check("refused-cleanly", Outcome.PASS, "a", "a"),))
    assert judge(case, STRICT).outcome == Outcome.PASS


def test_ratio_without_baseline_is_inconclusive() -> None:
    policy = structs.replace(STRICT, interruption=InterruptionLimits(max_ratio=1.2))
    assert judge(good_case(), policy).outcome == Outcome.INCONCLUSIVE
    assert judge(good_case(), policy, baseline_ms=280.0).outcome == Outcome.PASS
    assert judge(good_case(), policy, baseline_ms=200.0).outcome == Outcome.FAIL


def test_skips_are_judged_by_their_word() -> None:
    case = CaseEvidence("x", Mechanism.CPR, skipped="this QEMU has no cpr=on", skip_word="no-cpr")
    assert judge(case, DEFAULT).outcome == Outcome.SKIP
    assert judge(case, STRICT).outcome == Outcome.FAIL
    assert judge(replace(case, skipped="felt like it", skip_word=""), DEFAULT).outcome == Outcome.INCONCLUSIVE


def test_skip_does_not_hide_a_failed_check() -> None:
    case = CaseEvidence("x", Mechanism.CPR, Role.CHECKS, skipped="no packet scheduler", skip_word="not-in-this-lab")
    failed = case.with_checks(Check("qemu-lives", Outcome.FAIL, "no QEMU crashes", "signal 6", "the source crashed"))
    assert judge(case, DEFAULT).outcome == Outcome.SKIP
    verdict = judge(failed, DEFAULT).verdict
    assert (verdict.outcome, [finding.about for finding in verdict.reasons]) == (Outcome.FAIL, ["qemu-lives"])


def test_run_takes_its_worst_case() -> None:
    good = judge(good_case("a"), DEFAULT)
    bad = judge(changed(loss=PerDirection(2, 0))(good_case("b")), DEFAULT)
    unclear = judge(changed(sent=0)(good_case("c")), DEFAULT)
    assert judge_run([good], DEFAULT).outcome == Outcome.PASS
    assert judge_run([good, unclear], DEFAULT).outcome == Outcome.INCONCLUSIVE
    assert judge_run([good, unclear, bad], DEFAULT).outcome == Outcome.FAIL
    assert judge_run([], DEFAULT).outcome == Outcome.INCONCLUSIVE


def test_every_policy_allows_each_skip_that_does_not_depend_on_the_code_under_test() -> None:
    assert {*NOT_ASKED_FOR, SkipWord.NO_CPR, SkipWord.NOT_IN_THIS_LAB} == set(SkipWord)


def test_what_was_not_asked_for_may_be_skipped_under_any_policy() -> None:
    """No second QEMU was given; a parameter that few QEMUs have is not there: neither speaks of the QEMU under test."""
    local = judge(CaseEvidence("x", Mechanism.LOCAL, skipped="no such parameter", skip_word="no-local"), Policy())
    target = judge(CaseEvidence("y", Mechanism.CPR, skipped="give one", skip_word="no-target"), Policy())
    assert {local.outcome, target.outcome} == {Outcome.SKIP}
    assert judge_run([local, target, judge(good_case("z"), Policy())], Policy()).outcome == Outcome.PASS
    assert judge_run([local, target], Policy()).outcome == Outcome.INCONCLUSIVE


def test_mechanism_that_was_skipped_whole_is_not_passed() -> None:
    skipped = judge(CaseEvidence("x", Mechanism.CPR, skipped="this QEMU has no cpr=on", skip_word="no-cpr"), DEFAULT)
    other = judge(replace(good_case("y"), mechanism=Mechanism.LINK_SWITCH), DEFAULT)
    assert judge_run([skipped], DEFAULT).outcome == Outcome.INCONCLUSIVE
    assert judge_run([skipped, other], DEFAULT).outcome == Outcome.INCONCLUSIVE
    assert judge_run([skipped, other, judge(good_case("z"), DEFAULT)], DEFAULT).outcome == Outcome.PASS


def test_instrument_of_nothing_says_so_in_words() -> None:
    texts = [f.text for f in judge(replace(good_case(), instrument=InstrumentHealth()), DEFAULT).verdict.reasons]
    assert "there was no control run in this session" in texts


@pytest.mark.parametrize("role", [Role.UPDATE, Role.NEGATIVE_CONTROL, Role.CONTROL_RUN])
@pytest.mark.parametrize("policy", [STRICT, DEFAULT, load_policy("slow-machine")])
@pytest.mark.parametrize("check", [None, *Outcome])
def test_case_that_measured_nothing_has_one_reason_for_it_and_the_same_outcome(
    role: Role, policy: Policy, check: Outcome | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CaseEvidence("x", Mechanism.CPR, role)
    case = case if check is None else case.with_checks(Check("update-succeeds", check, "a", "b", "it died"))
    short = judge(case, policy)
    about_traffic = [finding.text for finding in short.verdict.findings if finding.about == "instrument"]
    assert about_traffic == ["no traffic was measured"]
    assert not any("discarded" in finding.text for finding in short.verdict.findings)
    monkeypatch.setattr("cprlib.verdict.judge.was_measured", lambda _: True)
    full = judge(case, policy)
    assert len(full.verdict.findings) > len(short.verdict.findings)
    assert full.outcome == short.outcome


@pytest.mark.parametrize("change", [changed(sent=0), changed(loss=PerDirection(0, None)), instrument(capture_drops=0)])
def test_case_with_any_figure_has_every_reason(change: Change) -> None:
    texts = [finding.text for finding in judge(change(CaseEvidence("x", Mechanism.CPR)), DEFAULT).verdict.reasons]
    assert "no traffic was measured" not in texts
    assert "there is no ledger" in texts


def test_reordering_after_tun_has_forgotten_the_flows_is_inconclusive() -> None:
    """It does so after 3 s, whatever the tap queue lasts; it affects only packets to a guest with several queues."""
    four = replace(good_case(), parameters=replace(good_case().parameters, queues=4), fds=DescriptorCount(8, 0))
    stream = Stream("from the guest", "stamp", sent=9, lost=0, duplicates=0, reordered=1)

    def outcome(case: CaseEvidence, forward_ms: float = 3200.0, return_ms: float = 3200.0) -> Outcome:
        forward, back = (Interruption(length_ms - 1, length_ms) for length_ms in (forward_ms, return_ms))
        paused = replace(case, interruption=InterruptionPerDirection(forward, back), budget=Budget(1000, 1000.0))
        return judge(paused, DEFAULT).outcome

    for reordered in (replace(four, reordered=PerDirection(1, 0)), replace(four, streams=(stream,))):
        assert outcome(reordered) == Outcome.INCONCLUSIVE
        assert outcome(reordered, forward_ms=2900.0) == Outcome.INCONCLUSIVE  # the guest did not answer for 3.2 s
        assert outcome(reordered, forward_ms=2900.0, return_ms=2900.0) == Outcome.FAIL
        one = replace(reordered, parameters=replace(four.parameters, queues=1))
        assert outcome(one) == Outcome.FAIL
        assert judge(one, DEFAULT).outcome == Outcome.FAIL
        assert outcome(replace(one, parameters=replace(four.parameters, queues=None))) == Outcome.INCONCLUSIVE
    assert outcome(replace(four, reordered=PerDirection(0, 1))) == Outcome.FAIL
