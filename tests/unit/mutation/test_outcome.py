"""What a cell comes to: only evidence detects, and a crash of the harness never does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprlib.campaign.mutation.outcome import CellOutcome, judge_folder
from cprlib.evidence.case import CaseEvidence, Check, Mechanism, Outcome, PerDirection, Role
from cprlib.report.avocado_results import AvocadoTest, JobResults
from tests.unit.mutation.samples import POLICIES, put_cell
from tests.unit.verdict.samples import good_case

LOSS = "verdict: fail: 2 packets lost forward"
CHECKS = CaseEvidence("test-a", Mechanism.NONE, Role.CHECKS, started_ns=1, test="test-a")


def checked(*outcomes: Outcome) -> CaseEvidence:
    return CHECKS.with_checks(*(Check(f"check-{item}", item, "x", "y", f"said {item}") for item in outcomes))


def test_good_case_passes(tmp_path: Path) -> None:
    cell = judge_folder(put_cell(tmp_path / "c", "PASS", "", good_case()), POLICIES)
    assert (cell.outcome, cell.messages, cell.seconds) == (CellOutcome.PASSED, (), 12.5)


def test_lost_packets_are_detected_with_the_judges_words(tmp_path: Path) -> None:
    case = replace(good_case(), loss=PerDirection(2, 0), unexplained=2)
    cell = judge_folder(put_cell(tmp_path / "c", "FAIL", LOSS, case), POLICIES)
    assert cell.outcome == CellOutcome.DETECTED
    assert cell.matches("^loss: 2 packets lost")
    assert not cell.matches("duplicat")


@pytest.mark.parametrize(
    ("status", "reason", "said"),
    [
        ("ERROR", "AttributeError: 'NoneType' object has no attribute 'qmp'", "AttributeError"),
        ("ERROR", "cannot run the test in a lab: 2 labs in a row died", "labs in a row died"),
        ("INTERRUPTED", "Test interrupted: Timeout reached", "Timeout"),
        ("PASS", "", "left no evidence"),
        ("FAIL", "assert 1 == 2", "left no evidence"),
    ],
)
def test_no_evidence_is_a_crash_whatever_the_status(tmp_path: Path, status: str, reason: str, said: str) -> None:
    cell = judge_folder(put_cell(tmp_path / "c", status, reason), POLICIES)
    assert cell.outcome == CellOutcome.CRASHED
    assert said in cell.messages[0]


def test_case_that_was_begun_and_never_written_is_a_crash(tmp_path: Path) -> None:
    folder = put_cell(tmp_path / "c", "ERROR", "TestLost")
    (folder / "cases" / "test-a").mkdir()
    assert judge_folder(folder, POLICIES).outcome == CellOutcome.CRASHED


def test_error_beside_evidence_that_is_good_so_far_is_a_crash(tmp_path: Path) -> None:
    folder = put_cell(tmp_path / "c", "ERROR", "KeyError: 'net0'", checked(Outcome.PASS))
    cell = judge_folder(folder, POLICIES)
    assert (cell.outcome, cell.messages) == (CellOutcome.CRASHED, ("the test ended with ERROR: KeyError: 'net0'",))


def test_failed_check_detects_also_when_the_test_could_not_go_on(tmp_path: Path) -> None:
    folder = put_cell(tmp_path / "c", "ERROR", "cannot live-update the guest", checked(Outcome.FAIL))
    cell = judge_folder(folder, POLICIES)
    assert (cell.outcome, cell.messages) == (CellOutcome.DETECTED, ("check-fail: said fail",))


def test_job_that_was_cut_off_is_a_crash(tmp_path: Path) -> None:
    (tmp_path / "c" / "avocado" / "job-1").mkdir(parents=True)
    cell = judge_folder(tmp_path / "c", POLICIES)
    assert cell.outcome == CellOutcome.CRASHED
    assert "interrupted" in cell.messages[0]


def test_folder_that_is_empty_or_broken_is_a_crash(tmp_path: Path) -> None:
    assert judge_folder(tmp_path, POLICIES).outcome == CellOutcome.CRASHED
    folder = put_cell(tmp_path / "c", "PASS", "", good_case())
    next(folder.glob("avocado/*/results.json")).write_text("{")
    assert judge_folder(folder, POLICIES).outcome == CellOutcome.CRASHED


def test_want_of_the_feature_is_a_defect(tmp_path: Path) -> None:
    said = "no-cpr: cannot hand over a tap: not supported by this QEMU"
    folder = put_cell(tmp_path / "c", "CANCEL", said, replace(CHECKS, skipped=said))
    assert judge_folder(folder, POLICIES).matches("not supported")


def test_want_of_something_else_is_a_skip(tmp_path: Path) -> None:
    said = "no-ipv6: this host has none"
    folder = put_cell(tmp_path / "c", "CANCEL", said, replace(CHECKS, skipped=said))
    assert judge_folder(folder, POLICIES).outcome == CellOutcome.SKIPPED


@given(
    outcomes=st.lists(st.sampled_from([Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE]), max_size=4),
    status=st.sampled_from(["PASS", "FAIL", "ERROR", "INTERRUPTED", "CANCEL", "WARN"]),
    reason=st.sampled_from(["", "boom", LOSS]),
)
def test_only_failing_evidence_detects_and_nothing_passes_by_default(
    outcomes: list[Outcome], status: str, reason: str
) -> None:
    from cprlib.campaign.mutation.outcome import judge_cell  # noqa: PLC0415
    from cprlib.report.gather import _join  # noqa: PLC0415

    job = JobResults((AvocadoTest("1-test-a", "test-a", status, reason, 3.0),))
    case = _join(replace(checked(*outcomes), test="1-test-a"), job.tests)
    cell = judge_cell([case], job, POLICIES)
    if Outcome.FAIL in outcomes:
        assert cell.outcome == CellOutcome.DETECTED
    if cell.outcome == CellOutcome.DETECTED:
        assert Outcome.FAIL in outcomes or status == "FAIL"
    if cell.outcome == CellOutcome.PASSED:
        assert set(outcomes) == {Outcome.PASS}
        assert status not in ("ERROR", "INTERRUPTED") or reason == LOSS
    else:
        assert cell.messages
