"""The outcome of one job: passed, failed, inconclusive, skipped, or a crash of the harness."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import SkipWord
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.report.read_results import (
    EVIDENCE_CHECK,
    AvocadoTest,
    JobResults,
    find_test,
    read_cases,
    read_jobs,
    repeats_verdict,
)
from cprlib.verdict.judge import JudgedCase, judge
from cprlib.verdict.policy import Policy

HARNESS_STATUS = ("ERROR", "INTERRUPTED")


class JobOutcome(enum.StrEnum):
    """The outcome of one test in one job."""

    FAILED = "failed"  # a case failed: kills a mutant, is a false alarm on the good build
    PASSED = "passed"
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"
    CRASHED = "crashed"  # no evidence, an error without a verdict, labs that died, a timeout


WITHOUT_ALARM = (JobOutcome.PASSED, JobOutcome.SKIPPED)
VERDICT_OF = {
    JobOutcome.FAILED: Outcome.FAIL,
    JobOutcome.PASSED: Outcome.PASS,
    JobOutcome.INCONCLUSIVE: Outcome.INCONCLUSIVE,
    JobOutcome.SKIPPED: Outcome.SKIP,
    JobOutcome.CRASHED: Outcome.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True)
class JudgedJob:
    """A job's outcome with its reasons.

    :param messages: texts of the findings that decide, each ``property: text``; a crash's reason.
    :param seconds: of the test, as Avocado reports them.
    """

    outcome: JobOutcome
    messages: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def decides(self) -> bool:
        """False where the harness or the instrument is to blame: the test may run again."""
        return self.outcome in (*WITHOUT_ALARM, JobOutcome.FAILED)

    def matches(self, pattern: str) -> bool:
        """True when the job failed and a regular expression is found in one of its failed findings."""
        return self.outcome == JobOutcome.FAILED and any(re.search(pattern, text) for text in self.messages)


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies that jobs are judged by.

    :param usual: of all cases, except those skipped because the feature is missing.
    :param strict: of those, where the series brings the feature, so that a build without it has a defect; else the
        usual one.
    """

    usual: Policy
    strict: Policy


def judge_folder(folder: Path, policies: Policies) -> JudgedJob:
    """Judge the job in a folder; broken or missing evidence is an outcome, never an exception."""
    job = read_jobs(folder)
    return judge_job(read_cases(folder, job.tests), job, policies)


def judge_job(cases: Sequence[CaseEvidence], job: JobResults, policies: Policies) -> JudgedJob:
    """The outcome of a job.

    :param cases: of the test, joined with Avocado's results (:func:`cprlib.report.read_results.read_cases`).
    :param job: Avocado's results.
    """
    seconds = sum(test.seconds for test in job.tests) if job.tests else None
    judged = [_judge(case, policies) for case in cases]
    with_evidence = [case for case in judged if not _lacks_evidence(case.evidence)]
    failures = _texts(with_evidence, Outcome.FAIL)
    if failures:
        return JudgedJob(JobOutcome.FAILED, failures, seconds)
    crash = _crash(with_evidence, job)
    if crash:
        return JudgedJob(JobOutcome.CRASHED, (crash,), seconds)
    inconclusive = _texts(judged, Outcome.INCONCLUSIVE)
    if inconclusive:
        return JudgedJob(JobOutcome.INCONCLUSIVE, inconclusive, seconds)
    if all(case.outcome == Outcome.SKIP for case in judged):
        return JudgedJob(JobOutcome.SKIPPED, _texts(judged, Outcome.SKIP), seconds)
    return JudgedJob(JobOutcome.PASSED, (), seconds)


def _judge(case: CaseEvidence, policies: Policies) -> JudgedCase:
    judged = judge(case, policies.usual)
    if judged.outcome == Outcome.SKIP and case.skip_word == SkipWord.NO_CPR:
        return judge(case, policies.strict)
    return judged


def _lacks_evidence(case: CaseEvidence) -> bool:
    """True for a case that its test never wrote: interrupted, unreadable, or made from Avocado's status alone."""
    if case.skipped:
        return False
    return case.started_ns is None or any(check.name == EVIDENCE_CHECK for check in case.checks)


def _texts(cases: Sequence[JudgedCase], outcome: Outcome) -> tuple[str, ...]:
    return tuple(
        f"{finding.about}: {finding.text}"
        for case in cases
        if case.outcome == outcome
        for finding in case.verdict.reasons
    )


def _crash(with_evidence: Sequence[JudgedCase], job: JobResults) -> str:
    """Why the harness is to blame; empty when it is not."""
    for test in job.tests:
        own = [case.evidence for case in with_evidence if find_test(case.evidence.test, job.tests) == test]
        if test.status in HARNESS_STATUS and not any(repeats_verdict(test, case) for case in own):
            return f"the test ended with {test.status}: {test.reason or 'no reason given'}"
    if job.problems:
        return job.problems[0]
    if not job.tests:
        return "Avocado ran no test"
    if not with_evidence:
        return f"the test ended with {_status(job.tests[0])} and left no evidence"
    return ""


def _status(test: AvocadoTest) -> str:
    return f"{test.status}: {test.reason}" if test.reason else test.status
