"""Collect what the tests of Avocado's job left: the evidence of their cases."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

from cprlib import files
from cprlib.codec import dump_json
from cprlib.errors import EnvironmentFailure, InstrumentError
from cprlib.evidence.case import CASE_FILE, STARTED_FILE, CaseEvidence
from cprlib.lab.task import LAB_FILE
from cprlib.report.results_folder import (
    CASES,
    JOB_FOLDER,
    LOG_FILE,
    REPEATS,
    RepeatedTest,
    is_interrupted,
    number_of_test,
    read_repeated,
    read_started,
    replaced_by,
)


def lab_retries(test_folder: Path) -> int:
    """Number of restarts of a test because its lab died, from the record of the spawner; 0 without a lab."""
    try:
        record = json.loads((test_folder / LAB_FILE).read_text(encoding="utf-8"))
        return max(0, int(record["attempts"]) - 1)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _record_test(case: Path, number: str, first: RepeatedTest | None, retries: int) -> None:
    """Record the test of a case, and its retries, in the case's evidence; without evidence in the record of its start.

    In a lab each test has number 1; only the number in the job distinguishes runs of one test.

    :param number: of the test in Avocado's job.
    :param first: the test that it replaces.
    """

    def named(recorded: str) -> str:
        if first:
            return first.test
        return re.sub(r"^\d+-", f"{number}-", recorded) if number.isdecimal() else recorded

    if not (case / CASE_FILE).exists():
        started = read_started(case)
        files.write_text(case / STARTED_FILE, dump_json(replace(started, test=named(started.test))), mode=0o600)
    with contextlib.suppress(InstrumentError):
        evidence = CaseEvidence.read(case)
        if (named(evidence.test), retries) != (evidence.test, evidence.retries):
            replace(evidence, test=named(evidence.test), retries=retries).write(case)


def _free_folder(cases: Path, name: str, first: RepeatedTest | None) -> Path:
    """The folder of a case: the one of the case that it replaces, else its name, with a number when that is taken."""
    base = _without_number(name)
    same = [cases / case for case in (first.cases if first else ()) if _without_number(case) == base]
    numbered = (cases / f"{name}-{number}" for number in itertools.count(2))
    return next(folder for folder in itertools.chain(same, [cases / name], numbered) if not folder.exists())


def _without_number(case: str) -> str:
    return re.sub(r"-\d+$", "", case)


def collect_cases(results: Path, job_folder: str = JOB_FOLDER) -> int:
    """Move case folders from Avocado's job to ``cases/<id>``.

    The cases of a repeated test take the ids of those that they replace.

    :param job_folder: with the job.
    :returns: number of restarts of tests because their labs died.
    :raises EnvironmentFailure: there is no job of Avocado.
    """
    job = max((path for path in (results / job_folder).glob("job-*") if path.is_dir()), default=None)
    if job is None:
        raise EnvironmentFailure("run the suite", "Avocado created no job", f"read {results / LOG_FILE}")
    (results / CASES).mkdir(mode=0o700, exist_ok=True)
    repeated = read_repeated(results) if job_folder == REPEATS else ()
    tests = [path for path in sorted(job.glob("test-results/*")) if path.is_dir() and path.name != "by-status"]
    retries = {test: lab_retries(test) for test in tests}
    for folder in (case for test in tests for case in sorted(test.glob("data/cases/*"))):
        test = folder.parents[2]
        first = replaced_by(number_of_test(test.name), repeated)
        _record_test(folder, test.name.partition("-")[0], first, retries[test])
        folder.rename(_free_folder(results / CASES, folder.name, first))
    return sum(retries.values())


def collect_interrupted(results: Path) -> None:
    """Collect the cases of a run that was killed before it did so; nothing of another run.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    for job_folder in (JOB_FOLDER, REPEATS) if is_interrupted(results) else ():
        if any((results / job_folder).glob("job-*")):  # else it was killed before this job began
            collect_cases(results, job_folder)
