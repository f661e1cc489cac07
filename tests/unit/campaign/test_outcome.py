"""The outcome of a job: it fails by evidence alone, and a crash of the harness is never a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprlib.campaign.mutation.run import load_policies
from cprlib.campaign.outcome import JobOutcome, judge_folder
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Outcome, Role
from cprlib.report.read_results import AvocadoTest, JobResults
from cprlib.traffic.figures import PerDirection
from cprlib.update.mechanism import Mechanism
from tests.unit.evidence.samples import good_case
from tests.unit.mutation.samples import POLICIES, put_job

LOSS = "verdict: fail: 2 packets lost forward"
CHECKS = CaseEvidence("test-a", Mechanism.NONE, Role.CHECKS, started_ns=1, test="test-a")


def checked(*outcomes: Outcome) -> CaseEvidence:
    return CHECKS.with_checks(*(Check(f"check-{item}", item, "x", "y", f"said {item}") for item in outcomes))


def test_good_case_passes(tmp_path: Path) -> None:
    job = judge_folder(put_job(tmp_path / "c", "PASS", "", good_case()), POLICIES)
    assert (job.outcome, job.messages, job.seconds) == (JobOutcome.PASSED, (), 12.5)


def test_lost_packets_fail_with_the_words_of_the_judge(tmp_path: Path) -> None:
    case = replace(good_case(), loss=PerDirection(2, 0), unexplained=2, concluded=Outcome.FAIL)
    job = judge_folder(put_job(tmp_path / "c", "FAIL", LOSS, case), POLICIES)
    assert job.outcome == JobOutcome.FAILED
    assert job.matches("^loss: 2 packets lost")
    assert not job.matches("duplicat")


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
    job = judge_folder(put_job(tmp_path / "c", status, reason), POLICIES)
    assert job.outcome == JobOutcome.CRASHED
    assert said in job.messages[0]


def test_case_that_was_begun_and_never_written_is_a_crash(tmp_path: Path) -> None:
    folder = put_job(tmp_path / "c", "ERROR", "TestLost")
    (folder / "cases" / "test-a").mkdir()
    assert judge_folder(folder, POLICIES).outcome == JobOutcome.CRASHED


def test_error_beside_evidence_that_is_good_so_far_is_a_crash(tmp_path: Path) -> None:
    folder = put_job(tmp_path / "c", "ERROR", "KeyError: 'net0'", checked(Outcome.PASS))
    job = judge_folder(folder, POLICIES)
    assert (job.outcome, job.messages) == (JobOutcome.CRASHED, ("the test ended with ERROR: KeyError: 'net0'",))


def test_failed_check_fails_also_when_the_test_could_not_continue(tmp_path: Path) -> None:
    folder = put_job(tmp_path / "c", "ERROR", "cannot live-update the guest", checked(Outcome.FAIL))
    job = judge_folder(folder, POLICIES)
    assert (job.outcome, job.messages) == (JobOutcome.FAILED, ("check-fail: said fail",))


def test_interrupted_job_is_a_crash(tmp_path: Path) -> None:
    (tmp_path / "c" / "avocado" / "job-1").mkdir(parents=True)
    job = judge_folder(tmp_path / "c", POLICIES)
    assert job.outcome == JobOutcome.CRASHED
    assert "interrupted" in job.messages[0]


def test_folder_that_is_empty_or_broken_is_a_crash(tmp_path: Path) -> None:
    assert judge_folder(tmp_path, POLICIES).outcome == JobOutcome.CRASHED
    folder = put_job(tmp_path / "c", "PASS", "", good_case())
    next(folder.glob("avocado/*/results.json")).write_text("{")
    assert judge_folder(folder, POLICIES).outcome == JobOutcome.CRASHED


@pytest.mark.parametrize(("base", "outcome"), [("10.0", JobOutcome.FAILED), ("10.2-local", JobOutcome.SKIPPED)])
def test_missing_feature_is_a_defect_of_a_base_whose_series_brings_it(
    tmp_path: Path, base: str, outcome: JobOutcome
) -> None:
    said = "cannot hand over a tap: not supported by this QEMU"
    folder = put_job(tmp_path / "c", "CANCEL", said, replace(CHECKS, skipped=said, skip_word="no-cpr"))
    job = judge_folder(folder, load_policies(base))
    assert job.outcome == outcome
    assert said in job.messages[0]


def test_other_missing_thing_is_a_skip(tmp_path: Path) -> None:
    said = "this host has none"
    folder = put_job(tmp_path / "c", "CANCEL", said, replace(CHECKS, skipped=said, skip_word="not-in-this-lab"))
    assert judge_folder(folder, POLICIES).outcome == JobOutcome.SKIPPED


@given(
    outcomes=st.lists(st.sampled_from([Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE]), max_size=4),
    status=st.sampled_from(["PASS", "FAIL", "ERROR", "INTERRUPTED", "CANCEL", "WARN"]),
    reason=st.sampled_from(["", "boom", LOSS]),
)
def test_only_failed_evidence_fails_and_nothing_passes_by_default(
    outcomes: list[Outcome], status: str, reason: str
) -> None:
    from cprlib.campaign.outcome import judge_job  # noqa: PLC0415
    from cprlib.report.read_results import _join  # noqa: PLC0415

    test = AvocadoTest("1-test-a", "test-a", status, reason, 3.0)
    case = _join(replace(checked(*outcomes), test=test.id), test)
    judged = judge_job([case], JobResults((test,)), POLICIES)
    if Outcome.FAIL in outcomes:
        assert judged.outcome == JobOutcome.FAILED
    if judged.outcome == JobOutcome.FAILED:
        assert Outcome.FAIL in outcomes or status == "FAIL"
    if judged.outcome == JobOutcome.PASSED:
        assert set(outcomes) == {Outcome.PASS}
        assert status not in ("ERROR", "INTERRUPTED") or reason == LOSS
    else:
        assert judged.messages
