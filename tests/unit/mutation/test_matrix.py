"""What a row proves: the right test, with the right message, on evidence; and nothing on the good build."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprlib.campaign.mutation.matrix import Build
from cprlib.campaign.mutation.outcome import CellOutcome, JudgedCell
from cprlib.errors import ExitStatus
from cprlib.evidence.terms import Outcome
from tests.unit.mutation.samples import CAUGHT, GOOD, judged, matrix, row, variant

LOST = "loss: 2 packets lost forward"
ANY = [judged(outcome, "said") for outcome in CellOutcome]


def test_variant_that_is_caught_for_the_right_reason_is_proven(tmp_path: Path) -> None:
    whole = matrix(tmp_path)
    assert (whole.outcome, whole.exit_status) == (Outcome.PASS, ExitStatus.PASS)
    assert "1 of 1 variants detected as they must be; good build: 2 of 2 tests" in whole.sentence


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (judged(CellOutcome.PASSED), "not detected by test-a, which must catch it"),
        (judged(CellOutcome.DETECTED, "identity: two files"), "another message than /packets? lost/: identity"),
        (judged(CellOutcome.CRASHED, "labs died"), "crashed: labs died; detected only by a crash of the harness"),
        (judged(CellOutcome.INCONCLUSIVE, "control-run"), "is inconclusive: control-run"),
        (judged(CellOutcome.SKIPPED, "no-ipv6"), "was skipped: no-ipv6"),
    ],
)
def test_anything_else_is_a_failure_with_its_reason(tmp_path: Path, cell: JudgedCell, words: str) -> None:
    missed = row(Build(variant()), {"test-a": cell, "test-b": judged(CellOutcome.PASSED)})
    assert matrix(tmp_path, GOOD, missed).exit_status == ExitStatus.FAIL
    assert words in missed.reasons[0].text


def test_variant_caught_by_another_test_only_is_a_failure_that_names_it() -> None:
    missed = row(Build(variant()), {"test-a": judged(CellOutcome.PASSED), "test-b": judged(CellOutcome.DETECTED, LOST)})
    assert missed.outcome == Outcome.FAIL
    assert "caught by test-b" in missed.reasons[0].text


def test_each_named_test_has_to_catch_it() -> None:
    build = Build(variant(killed_by=("test-a", "test-b")))
    half = row(build, {"test-a": judged(CellOutcome.DETECTED, LOST), "test-b": judged(CellOutcome.PASSED)})
    assert [reason.text for reason in half.reasons] == ["not detected by test-b, which must catch it"]


def test_message_may_be_in_any_failing_finding_and_is_the_one_shown() -> None:
    caught = row(Build(variant()), {"test-a": judged(CellOutcome.DETECTED, "update: failed", LOST)})
    assert caught.outcome == Outcome.PASS
    assert caught.message(caught.cells["test-a"]) == LOST


def test_test_that_never_ran_detects_nothing() -> None:
    missed = row(Build(variant()), {}, wanted=["test-a"])
    assert "did not run" in missed.reasons[0].text
    assert missed.outcome == Outcome.FAIL


def test_build_that_failed_is_a_failure() -> None:
    missed = row(Build(variant()), {}, wanted=["test-a"], problem="cannot apply 0001: hunk 1 FAILED")
    assert [reason.text for reason in missed.reasons] == ["not built: cannot apply 0001: hunk 1 FAILED"]


@pytest.mark.parametrize(
    ("cell", "status"),
    [
        (judged(CellOutcome.PASSED), ExitStatus.PASS),
        (judged(CellOutcome.SKIPPED, "no-ipv6: none"), ExitStatus.PASS),
        (judged(CellOutcome.DETECTED, LOST), ExitStatus.FAIL),
        (judged(CellOutcome.INCONCLUSIVE, "x"), ExitStatus.INCONCLUSIVE),
        (judged(CellOutcome.CRASHED, "x"), ExitStatus.INCONCLUSIVE),
    ],
)
def test_good_build(tmp_path: Path, cell: JudgedCell, status: ExitStatus) -> None:
    good = row(Build(), {"test-a": cell, "test-b": judged(CellOutcome.PASSED)})
    assert matrix(tmp_path, good, CAUGHT).exit_status == status


def test_good_test_that_did_not_run_and_missing_rows_are_inconclusive(tmp_path: Path) -> None:
    good = row(Build(), {"test-a": judged(CellOutcome.PASSED)}, wanted=["test-a", "test-b"])
    assert matrix(tmp_path, good, CAUGHT).outcome == Outcome.INCONCLUSIVE
    assert matrix(tmp_path, CAUGHT).outcome == Outcome.INCONCLUSIVE
    assert matrix(tmp_path, GOOD).outcome == Outcome.INCONCLUSIVE


def test_false_alarm_of_any_run_counts(tmp_path: Path) -> None:
    again = row(Build(run=7), {"test-a": judged(CellOutcome.DETECTED, LOST), "test-b": judged(CellOutcome.PASSED)})
    whole = matrix(tmp_path, GOOD, again, CAUGHT)
    assert whole.exit_status == ExitStatus.FAIL
    assert "3 of 4 tests without alarm in 2 runs" in whole.sentence


@given(must=st.sampled_from(ANY), other=st.sampled_from(ANY), pattern=st.sampled_from(["said", "^no such"]))
def test_a_variant_is_proven_exactly_when_its_test_detects_it_with_its_message(
    must: JudgedCell, other: JudgedCell, pattern: str
) -> None:
    seen = row(Build(variant(message=pattern)), {"test-a": must, "test-b": other})
    proven = must.outcome == CellOutcome.DETECTED and pattern == "said"
    assert (seen.outcome == Outcome.PASS) == proven
    assert bool(seen.reasons) != proven


def test_detections_have_those_that_must_first_then_the_quickest() -> None:
    cells = {
        "test-c": judged(CellOutcome.DETECTED, LOST, seconds=None),
        "test-b": judged(CellOutcome.DETECTED, LOST, seconds=2.0),
        "test-a": judged(CellOutcome.DETECTED, LOST, seconds=9.0),
    }
    assert [cell.test for cell in row(Build(variant()), cells).detections] == ["test-a", "test-b", "test-c"]
