"""All cases of a run: their evidence, cases that never finished, and the status of their tests in Avocado."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.errors import InstrumentError
from cprlib.evidence.case import CASE_FILE, CaseEvidence
from cprlib.evidence.records import Check, Outcome, Role
from cprlib.report.results_folder import (
    CASES,
    REPEATS,
    RepeatedTest,
    number_of_test,
    plain_name,
    read_repeated,
    read_started,
    replaced_by,
)
from cprlib.update.mechanism import Mechanism

EVIDENCE_CHECK = "evidence"  # a case without evidence has this one check, inconclusive
TEST_CHECK = "avocado-test"
NO_REASON = "skipped without a reason"
STATUS_OF = {Outcome.PASS: "PASS", Outcome.FAIL: "FAIL", Outcome.INCONCLUSIVE: "ERROR", Outcome.SKIP: "CANCEL"}
_SKIPPED = ("CANCEL", "SKIP")
_NO_REASON = ("", "<unknown>", "None")


@dataclass(frozen=True, slots=True)
class AvocadoTest:
    """One test of an Avocado job.

    :param id: with Avocado's number: ``2-tests/functional/test_update.py:Test.test_x``.
    :param name: without the number, with the varianter's suffix.
    :param status: PASS, FAIL, ERROR, SKIP, CANCEL, WARN or INTERRUPTED.
    :param reason: of a status other than PASS; empty when Avocado has none.
    """

    id: str
    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0

    def is_named(self, name: str) -> bool:
        """True when ``name`` is this test's id or name; the folders of its file are ignored."""
        return bool(name) and (
            name in (self.id, self.name) or plain_name(name) in (plain_name(self.id), plain_name(self.name))
        )


@dataclass(frozen=True, slots=True)
class JobResults:
    """The tests of all Avocado jobs in a results folder.

    :param problems: why tests are missing: an interrupted job, a file that cannot be read.
    """

    tests: tuple[AvocadoTest, ...] = ()
    problems: tuple[str, ...] = ()


def read_jobs(folder: Path) -> JobResults:
    """Read the results of the Avocado jobs in a results folder; of a repeated test the second. Never raises."""
    tests: dict[str, list[AvocadoTest]] = {}
    problems: list[str] = []
    for job in sorted(path for path in folder.glob("*/job-*") if path.is_dir()):
        path = job / "results.json"
        try:
            found, planned = _read_job(path)
        except FileNotFoundError:
            problems.append(f"Avocado's job {job.name} was interrupted: it left no results")
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"Avocado's results {path} cannot be read: {type(error).__name__}: {error}")
            continue
        tests.setdefault(job.parent.name, []).extend(found)
        if planned > len(found):
            problems.append(f"{planned - len(found)} of {planned} tests never ran: the job was interrupted")
    repeated = read_repeated(folder)
    repeats = [_in_first_place(test, repeated) for test in tests.pop(REPEATS, [])]
    replaced = {test.id for test in repeats}
    first = (test for found in tests.values() for test in found if test.id not in replaced)
    return JobResults((*first, *repeats), tuple(problems))


def _in_first_place(test: AvocadoTest, repeated: Sequence[RepeatedTest]) -> AvocadoTest:
    """A repeated test with the id of the test that it replaces: others may have the same name."""
    first = replaced_by(number_of_test(test.id), repeated)
    return replace(test, id=first.test) if first else test


def _read_job(path: Path) -> tuple[list[AvocadoTest], int]:
    """The tests of a job, and the number of tests it planned."""
    value = json.loads(path.read_text(encoding="utf-8"))
    tests = [
        AvocadoTest(
            id=str(test["id"]),
            name=str(test["name"]),
            status=str(test["status"]),
            reason="" if str(test.get("fail_reason")) in _NO_REASON else str(test["fail_reason"]),
            seconds=float(test.get("time_elapsed") or 0.0),
        )
        for test in value["tests"]
    ]
    return tests, int(value.get("total", len(tests)))


def read_cases(results: Path, tests: Sequence[AvocadoTest]) -> tuple[CaseEvidence, ...]:
    """The cases of a results folder, joined with Avocado's tests; broken and missing evidence becomes a case too.

    :param tests: of the Avocado job that wrote the cases; empty when there was none.
    """
    folders = sorted(path for path in (results / CASES).glob("*") if path.is_dir())
    cases = [_read_case(folder) for folder in folders]
    known = [find_test(case.test, tests) for case in cases]
    explained = {test for case, test in zip(cases, known, strict=True) if test and repeats_verdict(test, case)}
    joined = [
        _join(case, test) if test and test not in explained else case for case, test in zip(cases, known, strict=True)
    ]
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
        checks=(_no_evidence(message),),
    )


def _no_evidence(message: str) -> Check:
    return Check(EVIDENCE_CHECK, Outcome.INCONCLUSIVE, "evidence", "none", message)


def find_test(name: str, tests: Sequence[AvocadoTest]) -> AvocadoTest | None:
    """The test of that id, else the first one of that name: a test may have been run several times."""
    exact = (test for test in tests if test.id == name)
    return next(exact, None) or next((test for test in tests if test.is_named(name)), None)


def _join(case: CaseEvidence, test: AvocadoTest) -> CaseEvidence:
    """A case with the status of its test, which no verdict on a case of that test explains."""
    if test.status in _SKIPPED:
        failed = any(check.outcome == Outcome.FAIL for check in case.checks)
        return case if case.skipped or failed else replace(case, skipped=test.reason or NO_REASON)
    return case.with_checks(*_test_checks(test))


def repeats_verdict(test: AvocadoTest, case: CaseEvidence) -> bool:
    """True when the test's status only follows from the verdict on its evidence, which can be judged again."""
    return case.concluded is not None and test.status == STATUS_OF[case.concluded]


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
    case = CaseEvidence(case_id, Mechanism.NONE, Role.CHECKS, title=test.name, test=test.id)
    if test.status in _SKIPPED:
        return replace(case, skipped=test.reason or NO_REASON)
    missing = _no_evidence(f"the test ended with {test.status} and left no evidence")
    return case.with_checks(*(_test_checks(test) or (missing,)))
