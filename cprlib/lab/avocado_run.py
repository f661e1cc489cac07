"""Run Avocado on the functional suite, and repeat tests that were inconclusive."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cprlib.cleanup import CleanupProcess, temporary_environment
from cprlib.deadline import timeout_scale
from cprlib.errors import CprlibError, EnvironmentFailure, InstrumentError
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.files import project_folder
from cprlib.lab.engine import GRACE_SECONDS
from cprlib.lab.job_display import JobDisplay, job_display
from cprlib.lab.job_events import EVENTS_VARIABLE, read_events
from cprlib.lab.job_results import collect_cases
from cprlib.lab.schedule import parallel_tests, remember_durations
from cprlib.process import Child, spawn
from cprlib.report.results_folder import (
    CASES,
    FIRST_TRIES,
    JOB_FOLDER,
    LOG_FILE,
    REPEATS,
    RepeatedTest,
    write_repeated,
)

if TYPE_CHECKING:
    from cprlib.verdict.judge import JudgedCase

SETTINGS = """\
[datadir.paths]
test_dir = {tests}
[job.output.testlogs]
summary_statuses = []
[runner.task.interval]
from_soft_to_hard_termination = {grace}
"""  # the summary goes to Avocado's errors, and the report has its own
AVOCADO_END_S = 25.0  # for what Avocado writes after Ctrl-C, when its tests have ended
LAST_LINES_S = 5.0  # for what Avocado wrote last, when a process that it left behind still holds its errors open
OWNER_ALONE = 0o077  # umask: transcripts may contain output of a guest


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """One run of Avocado.

    :param tests: Avocado references; the whole suite when empty.
    :param parameters: Avocado test parameters.
    :param matrix: yaml-to-mux file with all parameters; replaces ``parameters``.
    :param engine: lab engine; None to run natively.
    :param parallel: tests at once; None for :func:`cprlib.lab.schedule.parallel_tests`.
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

    @property
    def at_once(self) -> int:
        return self.parallel or parallel_tests(self.engine)

    @property
    def grace_s(self) -> int:
        """Seconds from SIGTERM to SIGKILL of a test, in which it writes its evidence."""
        return math.ceil(GRACE_SECONDS * timeout_scale({**os.environ, **self.environment}))

    def settings(self) -> str:
        """Avocado's configuration file."""
        tests = str(project_folder() / "tests").replace("%", "%%")  # configparser's interpolation
        return SETTINGS.format(tests=tests, grace=self.grace_s)

    def command(self, settings: Path) -> list[str]:
        """Avocado's command line.

        :param settings: its configuration file.
        """
        command = [sys.executable, "-m", "cprlib.lab.avocado_main", "--config", str(settings), "run"]
        command += self.tests or [str(project_folder() / "tests" / "functional")]
        command += ["--job-results-dir", str(self.results / self.job_folder), "--disable-sysinfo"]
        if self.matrix:
            command += ["--mux-yaml", str(self.matrix)]
        else:
            for name, value in self.parameters.items():
                command += ["-p", f"{name}={value}"]
        command += ["--max-parallel-tasks", str(self.at_once)]
        command += ["--spawner", "lab", "--lab-engine", self.engine] if self.engine else ["--spawner", "native"]
        return [*command, *self.extra]


def avocado_environment() -> dict[str, str]:
    """The environment in which Avocado finds its runners, those of this Python."""
    programs = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{programs}:{os.environ.get('PATH', '')}"}


@contextlib.contextmanager
def _avocado(suite: SuiteRun, output: IO[str], errors: int, events: IO[str] | None = None) -> Iterator[Child]:
    """Avocado's process, with its temporary folder; both end with the body.

    :param events: the file for lines of :mod:`cprlib.lab.job_events`; closed in this process.
    """
    if suite.engine:
        _learn_facts(suite.parameters)
    with contextlib.ExitStack() as stack:
        cleanup = stack.enter_context(CleanupProcess())
        stack.callback(cleanup.group, 0)
        environment = {**avocado_environment(), **temporary_environment(cleanup), **suite.environment}
        settings = Path(environment["TMPDIR"], "avocado.conf")  # else Avocado creates ~/avocado/tests
        settings.write_text(suite.settings(), encoding="utf-8")
        inherited = [events.fileno()] if events else []
        if events:
            environment[EVENTS_VARIABLE] = str(events.fileno())
        child = stack.enter_context(
            spawn(
                suite.command(settings),
                purpose="run Avocado",
                env=environment,
                stdout=output,
                stderr=errors,
                pass_fds=inherited,
                umask=OWNER_ALONE,
            )
        )
        cleanup.group(child.pid)  # runners of Avocado's own spawner outlive Avocado
        if events:
            events.close()
        yield child


def _wait(child: subprocess.Popen[str], suite: SuiteRun) -> int:
    """Wait for Avocado; after Ctrl-C, let it terminate its tests, which it does one after another."""
    try:
        return child.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(child.pid, signal.SIGINT)  # once: Avocado then terminates its tests in order
        try:
            child.wait(timeout=suite.at_once * suite.grace_s + AVOCADO_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        raise


def run_avocado(
    suite: SuiteRun,
    output: IO[str],
    started: Callable[[Child], None] = lambda child: None,  # noqa: ARG005
) -> int:
    """Run Avocado.

    :param output: file for its output and errors.
    :param started: called with the process, so that another thread can terminate it.
    :returns: exit status of Avocado (a sum of flags, avocado.core.exit_codes).
    :raises EnvironmentFailure: this Python does not find Avocado.
    """
    with _avocado(suite, output, subprocess.STDOUT) as child:
        started(child)
        return _wait(child, suite)


def run_shown(suite: SuiteRun, display: JobDisplay) -> int:
    """Run Avocado and show its tests. Its output goes to :data:`LOG_FILE`, its errors to the display too.

    :param display: entered when Avocado has been started.
    :returns, raises: as :func:`run_avocado`.
    """
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        ours.makefile(encoding="utf-8", errors="replace") as errors,
        os.fdopen(reader, encoding="utf-8", errors="replace") as events,
        os.fdopen(writer, "w", encoding="utf-8") as inherited,
        (suite.results / LOG_FILE).open("a", encoding="utf-8") as log,
        _avocado(suite, log, theirs.fileno(), inherited) as child,
        display,
    ):
        theirs.close()

        def read_errors() -> None:
            for line in errors:
                log.write(line)
                log.flush()
                display.error(line)

        threads = [
            threading.Thread(target=read_events, args=(events, display.handle), name="events", daemon=True),
            threading.Thread(target=read_errors, name="errors", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            return _wait(child, suite)
        finally:
            for thread in threads:
                thread.join(timeout=LAST_LINES_S)
            ours.shutdown(socket.SHUT_RD)  # ends the thread that reads what another process still holds open


def _learn_facts(parameters: Mapping[str, str]) -> None:
    """Store what is known of the QEMUs of a run before it starts, since its labs cannot write the store."""
    from cprlib.build.qemu_facts import known_facts  # noqa: PLC0415 - slow imports, for labs only
    from cprlib.qemu.binary import QemuBinary  # noqa: PLC0415

    for prefix in ("", "target_"):
        if qemu := QemuBinary.from_parameters(parameters, prefix):
            with contextlib.suppress(CprlibError):  # the tests say what is wrong with it
                known_facts(qemu)


def run_and_collect(suite: SuiteRun) -> int:
    """Run Avocado, show its tests and collect their evidence.

    The evidence of an interrupted run is collected too; ``cprlib report`` lists what is missing.

    :returns: as :func:`collect_cases`.
    """
    try:
        run_shown(suite, job_display(suite.at_once, suite.engine))
    except KeyboardInterrupt:
        with contextlib.suppress(EnvironmentFailure):
            collect_cases(suite.results, suite.job_folder)
        raise
    remember_durations((suite.results / suite.job_folder).glob("job-*"), suite.engine)
    return collect_cases(suite.results, suite.job_folder)


def repeat_tests(suite: SuiteRun, tries: Sequence[JudgedCase]) -> int:
    """Run tests of a suite once more, one at a time: other tests may have disturbed them.

    The evidence of the first try moves to ``first-tries/<id>``; that of the second one has its reasons.

    :param tries: of their cases; nothing runs without one, where Avocado would run the whole suite.
    :returns: as :func:`collect_cases`.
    """
    if not tries:
        return 0
    kept, cases = suite.results / FIRST_TRIES, suite.results / CASES
    kept.mkdir(mode=0o700, exist_ok=True)
    cases_of: dict[str, list[str]] = {}  # by test, each once: several may have one name
    for first in (item.evidence for item in tries):
        if (cases / first.id).exists():  # a test that died early has left none
            (cases / first.id).rename(kept / first.id)
        cases_of.setdefault(first.test, []).append(first.id)
    write_repeated(suite.results, [RepeatedTest(test, tuple(ids)) for test, ids in cases_of.items()])
    names = tuple(re.sub(r"^\d+-", "", test) for test in cases_of)
    retries = run_and_collect(replace(suite, tests=names, parallel=1, job_folder=REPEATS))
    for folder in cases.iterdir():
        with contextlib.suppress(InstrumentError):
            case = CaseEvidence.read(folder)
            of_test = [item for item in tries if item.evidence.test == case.test]
            # of another case of the test only when the first try left none of this name
            if own := [item for item in of_test if item.evidence.id == folder.name] or of_test:
                inconclusive = [item for item in own if item.outcome is Outcome.INCONCLUSIVE]
                reasons = tuple(finding.text for item in inconclusive for finding in item.verdict.reasons)
                replace(case, first_try=reasons).write(folder)
    return retries
