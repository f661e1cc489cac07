"""All cases of a run: their evidence, cases that never finished, and the status of their tests in Avocado."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.errors import InstrumentError
from cprlib.evidence.case import CASE_FILE, CaseEvidence
from cprlib.evidence.records import Check, Outcome, Role
from cprlib.report.avocado_results import AvocadoTest
from cprlib.report.results_folder import CASES, read_started
from cprlib.update.mechanism import Mechanism

EVIDENCE_CHECK = "evidence"  # a case without evidence has this one check, inconclusive
TEST_CHECK = "avocado-test"
NO_REASON = "skipped without a reason"
STATUS_OF = {Outcome.PASS: "PASS", Outcome.FAIL: "FAIL", Outcome.INCONCLUSIVE: "ERROR", Outcome.SKIP: "CANCEL"}


def gather(results: Path, tests: Sequence[AvocadoTest]) -> tuple[CaseEvidence, ...]:
    """The cases of a results folder, joined with Avocado's tests; broken and missing evidence becomes a case too.

    :param tests: of the Avocado job that wrote the cases; empty when there was none.
    """
    folders = sorted(path for path in (results / CASES).glob("*") if path.is_dir())
    cases = [_read_case(folder) for folder in folders]
    joined = [_join(case, tests) for case in cases]
    known = [find_test(case.test, tests) for case in cases]
    orphans = [_without_case(test) for test in tests if test not in known]
    return tuple(sorted(joined, key=lambda case: case.started_ns or 0)) + tuple(orphans)


def _read_case(folder: Path) -> CaseEvidence:
    """The evidence in a case's folder; the folder's name is the id, whatever the file says."""
    started = read_started(folder)
    if (folder / CASE_FILE).exists():
        try:
            return replace(CaseEvidence.read(folder), id=folder.name)
        except InstrumentError as error:
            message = f"its evidence cannot be read: {error.happened}"
    else:
        message = "it was started and left no evidence"
    return CaseEvidence(
        folder.name,
        started.mechanism,
        Role.CHECKS,
        title=started.title,
        test=started.test,
        started_ns=started.started_ns,
        checks=(Check(EVIDENCE_CHECK, Outcome.INCONCLUSIVE, "evidence", "none", message),),
    )


def find_test(name: str, tests: Sequence[AvocadoTest]) -> AvocadoTest | None:
    """The test of that id, else the first one of that name: a test may have been run several times."""
    exact = (test for test in tests if test.id == name)
    return next(exact, None) or next((test for test in tests if test.is_named(name)), None)


def _join(case: CaseEvidence, tests: Sequence[AvocadoTest]) -> CaseEvidence:
    test = find_test(case.test, tests)
    if test is None:
        return case
    if test.status in ("CANCEL", "SKIP"):
        return case if case.skipped or _failed(case) else replace(case, skipped=test.reason or NO_REASON)
    if repeats_verdict(test, case):
        return case
    return case.with_checks(*_test_checks(test))


def repeats_verdict(test: AvocadoTest, case: CaseEvidence) -> bool:
    """True when the test's status only follows from the verdict on its evidence, which can be judged again."""
    return case.concluded is not None and test.status == STATUS_OF[case.concluded]


def _failed(case: CaseEvidence) -> bool:
    return any(check.outcome == Outcome.FAIL for check in case.checks)


def _test_checks(test: AvocadoTest) -> tuple[Check, ...]:
    """Avocado's status as a check: FAIL is the test's own verdict, ERROR and the rest say nothing about QEMU."""
    if test.status in ("PASS", "WARN"):
        return ()
    outcome = Outcome.FAIL if test.status == "FAIL" else Outcome.INCONCLUSIVE
    message = f"the test ended with {test.status}: {test.reason or 'no reason given'}"
    return (Check(TEST_CHECK, outcome, "PASS", test.status, message),)


def _without_case(test: AvocadoTest) -> CaseEvidence:
    """A test that started no case: a pass of its own proves nothing without evidence."""
    case_id = re.sub(r"[^A-Za-z0-9._-]+", "_", test.id).strip("_.-")[:120] or "test"
    case = CaseEvidence(case_id, Mechanism.NONE, Role.CHECKS, title=test.name, test=test.name)
    if test.status in ("CANCEL", "SKIP"):
        return replace(case, skipped=test.reason or NO_REASON)
    checks = _test_checks(test)
    message = f"the test ended with {test.status} and left no evidence"
    return case.with_checks(*(checks or (Check(EVIDENCE_CHECK, Outcome.INCONCLUSIVE, "evidence", "none", message),)))
