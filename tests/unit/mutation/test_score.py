"""A mutant is killed by the right test with the right message; the good build raises no alarm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprlib.campaign.mutation.plan import Build
from cprlib.campaign.outcome import JobOutcome, JudgedJob
from cprlib.errors import ExitStatus
from cprlib.evidence.records import Outcome
from tests.unit.mutation.samples import GOOD, KILLED, judged, mutant, report, results

LOST = "loss: 2 packets lost forward"
ANY = [judged(outcome, "said") for outcome in JobOutcome]


def test_mutant_that_is_killed_for_the_right_reason_counts() -> None:
    whole = report()
    assert (whole.verdict, whole.exit_status) == (Outcome.PASS, ExitStatus.PASS)
    assert "mutation score 1 of 1; good build: 2 of 2 tests" in whole.sentence


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (judged(JobOutcome.PASSED), "survived test-a, which must kill it"),
        (judged(JobOutcome.FAILED, "identity: two files"), "another message than /packets? lost/: identity"),
        (judged(JobOutcome.CRASHED, "labs died"), "crashed: labs died; a crash of the harness kills no mutant"),
        (judged(JobOutcome.INCONCLUSIVE, "control-run"), "is inconclusive: control-run"),
        (judged(JobOutcome.SKIPPED, "no-ipv6"), "was skipped: no-ipv6"),
    ],
)
def test_mutant_survives_anything_else(job: JudgedJob, words: str) -> None:
    survived = results(Build(mutant()), {"test-a": job, "test-b": judged(JobOutcome.PASSED)})
    assert report(GOOD, survived).exit_status == ExitStatus.FAIL
    assert words in survived.reasons[0].text


def test_mutant_killed_by_another_test_only_survives() -> None:
    survived = results(
        Build(mutant()), {"test-a": judged(JobOutcome.PASSED), "test-b": judged(JobOutcome.FAILED, LOST)}
    )
    assert survived.verdict == Outcome.FAIL
    assert "killed by test-b" in survived.reasons[0].text


def test_each_named_test_has_to_kill_it() -> None:
    build = Build(mutant(killed_by=("test-a", "test-b")))
    half = results(build, {"test-a": judged(JobOutcome.FAILED, LOST), "test-b": judged(JobOutcome.PASSED)})
    assert [reason.text for reason in half.reasons] == ["survived test-b, which must kill it"]


def test_message_may_be_in_any_failed_finding_and_is_shown() -> None:
    killed = results(Build(mutant()), {"test-a": judged(JobOutcome.FAILED, "update: failed", LOST)})
    assert killed.verdict == Outcome.PASS
    assert killed.killed_by[0].message == LOST


def test_test_that_did_not_run_kills_nothing() -> None:
    survived = results(Build(mutant()), {}, planned=["test-a"])
    assert "did not run" in survived.reasons[0].text
    assert survived.verdict == Outcome.FAIL


def test_build_that_failed_is_a_failure() -> None:
    survived = results(Build(mutant()), {}, planned=["test-a"], problem="cannot apply 0001: hunk 1 FAILED")
    assert [reason.text for reason in survived.reasons] == ["not built: cannot apply 0001: hunk 1 FAILED"]


@pytest.mark.parametrize(
    ("job", "status"),
    [
        (judged(JobOutcome.PASSED), ExitStatus.PASS),
        (judged(JobOutcome.SKIPPED, "no-ipv6: none"), ExitStatus.PASS),
        (judged(JobOutcome.FAILED, LOST), ExitStatus.FAIL),
        (judged(JobOutcome.INCONCLUSIVE, "x"), ExitStatus.INCONCLUSIVE),
        (judged(JobOutcome.CRASHED, "x"), ExitStatus.INCONCLUSIVE),
    ],
)
def test_good_build(job: JudgedJob, status: ExitStatus) -> None:
    good = results(Build(), {"test-a": job, "test-b": judged(JobOutcome.PASSED)})
    assert report(good, KILLED).exit_status == status


def test_missing_results_and_missing_builds_are_inconclusive() -> None:
    good = results(Build(), {"test-a": judged(JobOutcome.PASSED)}, planned=["test-a", "test-b"])
    assert report(good, KILLED).verdict == Outcome.INCONCLUSIVE
    assert report(KILLED).verdict == Outcome.INCONCLUSIVE
    assert report(GOOD).verdict == Outcome.INCONCLUSIVE


def test_false_alarm_of_any_run_counts() -> None:
    again = results(Build(run=7), {"test-a": judged(JobOutcome.FAILED, LOST), "test-b": judged(JobOutcome.PASSED)})
    whole = report(GOOD, again, KILLED)
    assert whole.exit_status == ExitStatus.FAIL
    assert "3 of 4 tests without false alarm in 2 runs" in whole.sentence


@given(must=st.sampled_from(ANY), other=st.sampled_from(ANY), pattern=st.sampled_from(["said", "^no such"]))
def test_mutant_is_killed_exactly_when_its_test_fails_with_its_message(
    must: JudgedJob, other: JudgedJob, pattern: str
) -> None:
    seen = results(Build(mutant(message=pattern)), {"test-a": must, "test-b": other})
    kills = must.outcome == JobOutcome.FAILED and pattern == "said"
    assert (seen.verdict == Outcome.PASS) == kills
    assert bool(seen.reasons) != kills


def test_failed_tests_are_listed_with_those_that_must_kill_first_then_the_quickest() -> None:
    jobs = {
        "test-c": judged(JobOutcome.FAILED, LOST, seconds=None),
        "test-b": judged(JobOutcome.FAILED, LOST, seconds=2.0),
        "test-a": judged(JobOutcome.FAILED, LOST, seconds=9.0),
    }
    assert [item.test for item in results(Build(mutant()), jobs).killed_by] == ["test-a", "test-b", "test-c"]
