"""Run Avocado on the functional suite, and collect the evidence of its tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from cprlib.cleanup import CleanupProcess, temporary_environment
from cprlib.errors import EnvironmentFailure, InstrumentError
from cprlib.evidence.case import CaseEvidence
from cprlib.files import project_folder
from cprlib.lab.capacity import parallel_tests
from cprlib.lab.task import LAB_FILE
from cprlib.process import spawn
from cprlib.report.results_folder import CASES, FIRST_TRIES, REPEATS

JOB_FOLDER = "avocado"
OWNER_ALONE = 0o077  # umask: transcripts may contain output of a guest
COPIES = {"results.xml": "junit.xml", "results.tap": "results.tap"}  # Avocado's name: ours


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """One run of Avocado.

    :param tests: Avocado references; the whole suite when empty.
    :param parameters: Avocado test parameters.
    :param matrix: yaml-to-mux file with all parameters; replaces ``parameters``.
    :param engine: lab engine; None to run natively.
    :param parallel: tests at once; None for :func:`cprlib.lab.capacity.parallel_tests`.
    :param extra: further arguments for Avocado.
    :param job_folder: in the results folder, for Avocado's own results.
    """

    results: Path
    tests: Sequence[str]
    parameters: Mapping[str, str]
    engine: str | None = None
    parallel: int | None = None
    extra: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    matrix: Path | None = None
    job_folder: str = JOB_FOLDER

    def command(self) -> list[str]:
        """The command line of Avocado."""
        command = [sys.executable, "-m", "avocado", "run"]
        command += self.tests or [str(project_folder() / "tests" / "functional")]
        command += ["--job-results-dir", str(self.results / self.job_folder), "--disable-sysinfo"]
        if self.matrix:
            command += ["--mux-yaml", str(self.matrix)]
        else:
            for name, value in self.parameters.items():
                command += ["-p", f"{name}={value}"]
        parallel = self.parallel or parallel_tests(self.engine)
        command += ["--max-parallel-tasks", str(parallel)]
        command += ["--spawner", "lab", "--lab-engine", self.engine] if self.engine else ["--spawner", "native"]
        return [*command, *self.extra]


def avocado_environment() -> dict[str, str]:
    """The environment in which Avocado finds its runners, those of this Python."""
    programs = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{programs}:{os.environ.get('PATH', '')}"}


def run_avocado(
    suite: SuiteRun,
    output: IO[str] | None = None,
    started: Callable[[subprocess.Popen[str]], None] = lambda child: None,  # noqa: ARG005
) -> int:
    """Run Avocado; its output goes to standard output.

    :param output: file for its output and errors instead.
    :param started: called with the process, so that another thread can terminate it.
    :returns: exit status of Avocado (a sum of flags, avocado.core.exit_codes).
    :raises EnvironmentFailure: this Python does not find Avocado.
    """
    errors = subprocess.STDOUT if output else None
    with contextlib.ExitStack() as stack:
        cleanup = stack.enter_context(CleanupProcess())
        stack.callback(cleanup.group, 0)
        environment = {**avocado_environment(), **temporary_environment(cleanup), **suite.environment}
        settings = Path(environment["TMPDIR"], "avocado.conf")  # else Avocado creates ~/avocado/tests
        settings.write_text(f"[datadir.paths]\ntest_dir = {project_folder() / 'tests'}\n", encoding="utf-8")
        program, arguments = suite.command()[:3], suite.command()[3:]
        command = [*program, "--config", str(settings), *arguments]
        child = stack.enter_context(
            spawn(command, purpose="run Avocado", env=environment, stdout=output, stderr=errors, umask=OWNER_ALONE)
        )
        cleanup.group(child.pid)  # runners of Avocado's own spawner outlive Avocado
        started(child)
        try:
            return child.wait()
        except KeyboardInterrupt:
            os.killpg(child.pid, signal.SIGINT)  # once: Avocado then terminates its tests in order
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
            raise


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


def gather(results: Path, job_folder: str = JOB_FOLDER) -> int:
    """Move case folders from Avocado's job to ``cases/<id>`` and copy its JUnit and TAP files.

    :param job_folder: with the job; those two files of a job of repeated cases stay in it.
    :returns: number of restarts of tests because their labs died.
    :raises EnvironmentFailure: there is no job of Avocado.
    """
    job = max((path for path in (results / job_folder).glob("job-*") if path.is_dir()), default=None)
    if job is None:
        raise EnvironmentFailure("run the suite", "Avocado created no job", "read its messages above")
    for name, ours in COPIES.items():
        if job_folder == JOB_FOLDER and (job / name).exists():
            shutil.copyfile(job / name, results / ours)
            (results / ours).chmod(0o600)
    (results / CASES).mkdir(mode=0o700, exist_ok=True)
    tests = [path for path in sorted(job.glob("test-results/*")) if path.is_dir() and path.name != "by-status"]
    for folder in (case for test in tests for case in sorted(test.glob("data/cases/*"))):
        test = folder.parents[2]
        _record_test(folder, test.name.partition("-")[0], lab_retries(test))
        final = results / CASES / folder.name
        number = 2
        while final.exists():
            final = results / CASES / f"{folder.name}-{number}"
            number += 1
        folder.rename(final)
    return sum(lab_retries(test) for test in tests)


def run_and_gather(suite: SuiteRun) -> int:
    """Run Avocado and collect the evidence of its tests.

    The evidence of an interrupted run is collected too; ``cprlib report`` lists what is missing.

    :returns: as :func:`gather`.
    :raises EnvironmentFailure: see :func:`run_avocado` and :func:`gather`.
    """
    try:
        run_avocado(suite)
    except KeyboardInterrupt:
        with contextlib.suppress(EnvironmentFailure):
            gather(suite.results, suite.job_folder)
        raise
    return gather(suite.results, suite.job_folder)


@dataclass(frozen=True, slots=True)
class FirstTry:
    """A case that is repeated because it was inconclusive, or because its test's other case was.

    :param case: its id; :param test: Avocado's id of its test.
    :param reasons: why it was inconclusive.
    """

    case: str
    test: str
    reasons: tuple[str, ...] = ()


def repeat_tests(suite: SuiteRun, tries: Sequence[FirstTry]) -> int:
    """Run tests of a suite once more, one at a time: other tests may have disturbed them.

    The evidence of the first try moves to ``first-tries/<id>``; that of the second one has its reasons.

    :returns: as :func:`gather`.
    :raises EnvironmentFailure: see :func:`run_avocado` and :func:`gather`.
    """
    kept, cases = suite.results / FIRST_TRIES, suite.results / CASES
    kept.mkdir(mode=0o700, exist_ok=True)
    for item in tries:
        if (cases / item.case).exists():  # a test that died early has left none
            (cases / item.case).rename(kept / item.case)
    tests = dict.fromkeys(re.sub(r"^\d+-", "", item.test) for item in tries)
    retries = run_and_gather(replace(suite, tests=tuple(tests), parallel=1, job_folder=REPEATS))
    for item in tries:
        with contextlib.suppress(InstrumentError):
            replace(CaseEvidence.read(cases / item.case), first_try=item.reasons).write(cases / item.case)
    return retries
