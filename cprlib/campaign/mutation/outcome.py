"""What came of one cell: detected, passed, inconclusive, skipped, or a crash of the harness."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.evidence.case import CaseEvidence, Outcome
from cprlib.report.avocado_results import AvocadoTest, JobResults, read_jobs
from cprlib.report.gather import EVIDENCE_CHECK, gather
from cprlib.verdict.findings import OWN_VERDICT
from cprlib.verdict.judge import JudgedCase, judge, skip_word
from cprlib.verdict.policy import Policy

NO_FEATURE = "no-cpr"  # the word with which a test is skipped on a QEMU without the feature
FOREIGN_STATUS = ("ERROR", "INTERRUPTED")


class CellOutcome(enum.StrEnum):
    """What came of one test on one build."""

    DETECTED = "detected"  # a case of it failed: right on a variant, a false alarm on the good build
    PASSED = "passed"
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"
    CRASHED = "crashed"  # no evidence, an error that is no verdict, labs that died, a timeout


@dataclass(frozen=True, slots=True)
class JudgedCell:
    """A cell with what decides.

    :param messages: the texts of the findings that decide, each ``property: text``; a crash's reason.
    :param seconds: of the test, as Avocado says.
    """

    outcome: CellOutcome
    messages: tuple[str, ...] = ()
    seconds: float | None = None

    def matches(self, pattern: str) -> bool:
        """True when the cell is detected and a regular expression is found in one of its failing findings."""
        return self.outcome == CellOutcome.DETECTED and any(re.search(pattern, text) for text in self.messages)


@dataclass(frozen=True, slots=True)
class Policies:
    """By what cells are judged.

    :param usual: by this one.
    :param strict: cases that were skipped for want of the feature are judged by this one: the series brings the
        feature, so the want of it is a defect of the build.
    """

    usual: Policy
    strict: Policy


def judge_folder(folder: Path, policies: Policies) -> JudgedCell:
    """Judge the cell in a folder; never raises for what a test left."""
    job = read_jobs(folder)
    return judge_cell(gather(folder, job.tests), job, policies)


def judge_cell(cases: Sequence[CaseEvidence], job: JobResults, policies: Policies) -> JudgedCell:
    """The outcome of a cell.

    :param cases: of the test, joined with Avocado's results (:func:`cprlib.report.gather.gather`).
    :param job: Avocado's results.
    """
    seconds = sum(test.seconds for test in job.tests) if job.tests else None
    judged = [_judge(case, policies) for case in cases]
    evident = [case for case in judged if not _lacks_evidence(case.evidence)]
    fails = _texts(evident, Outcome.FAIL)
    if fails:
        return JudgedCell(CellOutcome.DETECTED, fails, seconds)
    crash = _crash(evident, job)
    if crash:
        return JudgedCell(CellOutcome.CRASHED, (crash,), seconds)
    doubts = _texts(judged, Outcome.INCONCLUSIVE)
    if doubts:
        return JudgedCell(CellOutcome.INCONCLUSIVE, doubts, seconds)
    if all(case.outcome == Outcome.SKIP for case in judged):
        return JudgedCell(CellOutcome.SKIPPED, _texts(judged, Outcome.SKIP), seconds)
    return JudgedCell(CellOutcome.PASSED, (), seconds)


def _judge(case: CaseEvidence, policies: Policies) -> JudgedCase:
    judged = judge(case, policies.usual)
    if judged.outcome == Outcome.SKIP and skip_word(case.skipped) == NO_FEATURE:
        return judge(case, policies.strict)
    return judged


def _lacks_evidence(case: CaseEvidence) -> bool:
    """True for a case that its test never wrote: cut off, unreadable, or made up of Avocado's status alone."""
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


def _crash(evident: Sequence[JudgedCase], job: JobResults) -> str:
    """Why the harness is to blame, or nothing."""
    for test in job.tests:
        if test.status in FOREIGN_STATUS and not test.reason.startswith(OWN_VERDICT):
            return f"the test ended with {test.status}: {test.reason or 'no reason given'}"
    if job.problems:
        return job.problems[0]
    if not job.tests:
        return "Avocado ran no test"
    if not evident:
        return f"the test ended with {_status(job.tests[0])} and left no evidence"
    return ""


def _status(test: AvocadoTest) -> str:
    return f"{test.status}: {test.reason}" if test.reason else test.status
