"""Collect what the tests of Avocado's job left: the evidence of their cases."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

from cprlib.errors import EnvironmentFailure, InstrumentError
from cprlib.evidence.case import CaseEvidence
from cprlib.lab.task import LAB_FILE
from cprlib.report.results_folder import CASES, JOB_FOLDER, LOG_FILE

COPIES = {"results.xml": "junit.xml", "results.tap": "results.tap"}  # Avocado's name: ours


def lab_retries(test_folder: Path) -> int:
    """Number of restarts of a test because its lab died, from the record of the spawner; 0 without a lab."""
    try:
        record = json.loads((test_folder / LAB_FILE).read_text(encoding="utf-8"))
        return max(0, int(record["attempts"]) - 1)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _record_test(case: Path, number: str, retries: int) -> None:
    """Record the number of the test in Avocado's job and its retries in the evidence of a case.

    In a lab each test has number 1; only the number in the job distinguishes runs of one test. A case without evidence
    is inconclusive.
    """
    with contextlib.suppress(InstrumentError):
        evidence = CaseEvidence.read(case)
        test = re.sub(r"^\d+-", f"{number}-", evidence.test) if number.isdigit() else evidence.test
        if (test, retries) != (evidence.test, evidence.retries):
            replace(evidence, test=test, retries=retries).write(case)


def collect_cases(results: Path, job_folder: str = JOB_FOLDER) -> int:
    """Move case folders from Avocado's job to ``cases/<id>`` and copy its JUnit and TAP files.

    :param job_folder: with the job; those two files of a job of repeated cases stay in it.
    :returns: number of restarts of tests because their labs died.
    :raises EnvironmentFailure: there is no job of Avocado.
    """
    job = max((path for path in (results / job_folder).glob("job-*") if path.is_dir()), default=None)
    if job is None:
        raise EnvironmentFailure("run the suite", "Avocado created no job", f"read {results / LOG_FILE}")
    for name, ours in COPIES.items():
        if job_folder == JOB_FOLDER and (job / name).exists():
            shutil.copyfile(job / name, results / ours)
            (results / ours).chmod(0o600)
    (results / CASES).mkdir(mode=0o700, exist_ok=True)
    tests = [path for path in sorted(job.glob("test-results/*")) if path.is_dir() and path.name != "by-status"]
    retries = {test: lab_retries(test) for test in tests}
    for folder in (case for test in tests for case in sorted(test.glob("data/cases/*"))):
        test = folder.parents[2]
        _record_test(folder, test.name.partition("-")[0], retries[test])
        final = results / CASES / folder.name
        number = 2
        while final.exists():
            final = results / CASES / f"{folder.name}-{number}"
            number += 1
        folder.rename(final)
    return sum(retries.values())
