"""One call of Avocado on the functional suite, and gathering what its tests left."""

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
from cprlib.lab.task import LAB_FILE
from cprlib.process import spawn

JOB_FOLDER = "avocado"
CASES_FOLDER = "cases"
OWNER_ALONE = 0o077  # umask: transcripts may hold what a guest said
COPIES = {"results.xml": "junit.xml", "results.tap": "results.tap"}  # Avocado's name: ours


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """One call of Avocado.

    :param tests: references as Avocado takes them; the whole suite when empty.
    :param parameters: Avocado test parameters.
    :param matrix: yaml-to-mux file with all parameters; Avocado takes it only in place of ``parameters``.
    :param engine: engine of the lab, None to run natively.
    :param parallel: tests at once; None for one per core.
    :param extra: further arguments for Avocado, as given by the user.
    """

    results: Path
    tests: Sequence[str]
    parameters: Mapping[str, str]
    engine: str | None = None
    parallel: int | None = None
    extra: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    matrix: Path | None = None

    def command(self) -> list[str]:
        """The command line of Avocado."""
        command = [sys.executable, "-m", "avocado", "run"]
        command += self.tests or [str(project_folder() / "tests" / "functional")]
        command += ["--job-results-dir", str(self.results / JOB_FOLDER), "--disable-sysinfo"]
        if self.matrix:
            command += ["--mux-yaml", str(self.matrix)]
        else:
            for name, value in self.parameters.items():
                command += ["-p", f"{name}={value}"]
        parallel = self.parallel or (len(os.sched_getaffinity(0)) if self.engine else 1)
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
    """Run Avocado; its own output goes to standard output as it comes.

    :param output: takes Avocado's standard output and error instead.
    :param started: called with Avocado's process, so that another thread can end it.
    :returns: Avocado's exit status (a sum of flags, avocado.core.exit_codes).
    :raises EnvironmentFailure: Avocado is not installed where this Python looks.
    """
    errors = subprocess.STDOUT if output else None
    with contextlib.ExitStack() as stack:
        cleanup = stack.enter_context(CleanupProcess())
        stack.callback(cleanup.group, 0)
        environment = {**avocado_environment(), **temporary_environment(cleanup), **suite.environment}
        command = _with_settings(suite.command(), Path(environment["TMPDIR"]))
        child = stack.enter_context(
            spawn(command, purpose="run Avocado", env=environment, stdout=output, stderr=errors, umask=OWNER_ALONE)
        )
        cleanup.group(child.pid)  # Avocado's own spawner does not bind a runner's life to Avocado's
        started(child)
        try:
            return child.wait()
        except KeyboardInterrupt:
            os.killpg(child.pid, signal.SIGINT)  # once: Avocado then ends its tests in order
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
            raise


def _with_settings(command: list[str], folder: Path) -> list[str]:
    """The command, with settings that keep Avocado from making ~/avocado/tests only because it would show its path."""
    settings = folder / "avocado.conf"
    settings.write_text(f"[datadir.paths]\ntest_dir = {project_folder() / 'tests'}\n", encoding="utf-8")
    place = command.index("avocado") + 1
    return [*command[:place], "--config", str(settings), *command[place:]]


def lab_retries(test_folder: Path) -> int:
    """How often a test was started anew because its lab died, from what the spawner noted; 0 without a lab."""
    try:
        noted = json.loads((test_folder / LAB_FILE).read_text(encoding="utf-8"))
        return max(0, int(noted["attempts"]) - 1)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _note_test(case: Path, number: str, retries: int) -> None:
    """Put the test's number in Avocado's job and its retries into a case's evidence; a case without is inconclusive.

    In a lab each test is the first one: only the job knows its number, which tells apart runs of one test.
    """
    with contextlib.suppress(InstrumentError):
        evidence = CaseEvidence.read(case)
        test = re.sub(r"^\d+-", f"{number}-", evidence.test) if number.isdigit() else evidence.test
        if (test, retries) != (evidence.test, evidence.retries):
            replace(evidence, test=test, retries=retries).write(case)


def gather(results: Path) -> int:
    """Move each case's folder from Avocado's job to ``cases/<id>`` and copy its JUnit and TAP files.

    :returns: how often a test was started anew because its lab died.
    :raises EnvironmentFailure: Avocado left no job.
    """
    jobs = sorted(path for path in (results / JOB_FOLDER).glob("job-*") if path.is_dir())
    if not jobs:
        raise EnvironmentFailure("run the suite", "Avocado made no job", "read its message above")
    job = jobs[-1]
    for name, ours in COPIES.items():
        if (job / name).exists():
            shutil.copyfile(job / name, results / ours)
            (results / ours).chmod(0o600)
    (results / CASES_FOLDER).mkdir(mode=0o700, exist_ok=True)
    tests = [path for path in sorted(job.glob("test-results/*")) if path.is_dir() and path.name != "by-status"]
    for folder in (case for test in tests for case in sorted(test.glob("data/cases/*"))):
        test = folder.parents[2]
        _note_test(folder, test.name.partition("-")[0], lab_retries(test))
        final = results / CASES_FOLDER / folder.name
        number = 2
        while final.exists():
            final = results / CASES_FOLDER / f"{folder.name}-{number}"
            number += 1
        folder.rename(final)
    return sum(lab_retries(test) for test in tests)


def run_and_gather(suite: SuiteRun) -> int:
    """Run Avocado and gather what its tests left.

    A run that is interrupted is gathered too: what has ended is evidence, and ``cprlib report`` tells what is missing.

    :returns: as :func:`gather`.
    :raises EnvironmentFailure: see :func:`run_avocado` and :func:`gather`.
    """
    try:
        run_avocado(suite)
    except KeyboardInterrupt:
        with contextlib.suppress(EnvironmentFailure):
            gather(suite.results)
        raise
    return gather(suite.results)
