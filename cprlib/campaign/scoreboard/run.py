"""Run a scoreboard session: make the QEMUs, then run the tests of every row, one guest after the other."""

from __future__ import annotations

import collections
import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.build.assets import Assets, build_assets
from cprlib.build.progress import Progress
from cprlib.campaign.job import JobRunner, SuiteTest, compress, find_tests
from cprlib.campaign.mutation.stored import ResultRecord, code_digest, result_key
from cprlib.campaign.page import ProgressLines
from cprlib.campaign.pool import Children, Pool, Task, worker_count
from cprlib.campaign.scoreboard.figures import Measured, measure
from cprlib.campaign.scoreboard.plan import STORE, UPDATE_TEST, Row, ScoreboardRequest, choose_rows
from cprlib.campaign.store import store_folder
from cprlib.errors import BuildFailed, DownloadFailed, InstrumentError, NotSupported
from cprlib.lab.engines import asset_parameters
from cprlib.qemu.binary import QemuBinary, probe
from cprlib.qemu.facts import QemuFacts
from cprlib.verdict.policy_file import load_policy

RESULTS = "results"
POLICY = "default"


@dataclass(frozen=True, slots=True)
class BuiltRow:
    """A row with its QEMU, or the reason why there is none."""

    row: Row
    qemu: QemuBinary | None = None
    facts: QemuFacts | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RowJob:
    """One test on one row.

    :param number: of the run, from 1.
    """

    built: BuiltRow
    test: SuiteTest
    number: int

    @property
    def place(self) -> str:
        """Its folder below :data:`RESULTS`."""
        return f"{self.built.row.name}/run-{self.number}/{self.test.id}"


class ScoreboardJobs:
    """Runs tests and stores their results; called on the pool's threads.

    :param folder: of the session. :param partial: for jobs that run.
    """

    def __init__(self, folder: Path, partial: Path, assets: Assets, engine: str | None, children: Children) -> None:
        self._folder = folder
        self._partial = partial
        self._assets = assets
        self._engine = engine
        self._children = children
        self._code = code_digest()

    def is_stored(self, job: RowJob) -> bool:
        """Whether a result is stored whose inputs are unchanged; one that changed is removed."""
        with contextlib.suppress(InstrumentError):
            if ResultRecord.read(self.final(job)).key == self._key(job):
                return True
        shutil.rmtree(self.final(job), ignore_errors=True)
        return False

    def run(self, job: RowJob) -> bool:
        """Run a test and store its result; False when it was ended from outside."""
        runner = JobRunner(self._engine, self._assets.lab_kernel, self._children.add)
        done = runner.run(self._partial / job.place, job.test.reference, self._parameters(job))
        if self._children.stopped:
            return False
        record = ResultRecord(job.built.row.name, job.test.id, self._key(job), done.started_ns, done.seconds)
        replace(record, lab_lost=done.lab_lost).write(done.folder)
        compress(done.folder)
        store_folder(done.folder, self.final(job))
        return True

    def final(self, job: RowJob) -> Path:
        """Folder of a result."""
        return self._folder / RESULTS / job.place

    def _parameters(self, job: RowJob) -> Mapping[str, str]:
        own = job.built.row.parameters() if job.test.id == UPDATE_TEST else {}
        return {**asset_parameters(self._assets, self._engine, POLICY, qemu=job.built.qemu), **own}

    def _key(self, job: RowJob) -> str:
        sha256 = job.built.facts.sha256 if job.built.facts else ""
        others = {**self._parameters(job), "sha256": sha256, "engine": self._engine or "native"}
        return result_key(job.test.file, self._code, {**others, "lab_kernel": str(self._assets.lab_kernel)})


class ScoreboardStrategy:
    """Job after job; see :class:`cprlib.campaign.pool.Strategy`."""

    def __init__(self, jobs: Sequence[RowJob], work: ScoreboardJobs, lines: ProgressLines) -> None:
        self._waiting = collections.deque(job for job in jobs if not work.is_stored(job))
        self._total = len(self._waiting)
        self._work = work
        self._lines = lines
        self._done = 0
        if self._total < len(jobs):
            lines.line(f"{len(jobs) - self._total} of {len(jobs)} results are stored")

    def next(self, running: int) -> Task | None:
        """See :meth:`cprlib.campaign.pool.Strategy.next`."""
        del running
        if not self._waiting:
            return None
        job = self._waiting.popleft()
        return Task(lambda: self._work.run(job), lambda stored: self._end(job, stored))

    def _end(self, job: RowJob, stored: bool) -> None:
        self._done += stored
        if stored:
            left = self._lines.elapsed / self._done * (self._total - self._done)
            self._lines.line(f"{self._done}/{self._total} {job.place}", left)


def build_rows(rows: Sequence[Row], progress: Progress) -> list[BuiltRow]:
    """Make every QEMU, one after the other, before anything is measured."""
    qemus: dict[str, BuiltRow] = {}
    for row in rows:
        if row.qemu.name not in qemus:
            try:
                qemu = row.qemu.make(progress)
                qemus[row.qemu.name] = BuiltRow(row, qemu, probe(qemu))
            except (BuildFailed, DownloadFailed, NotSupported) as error:
                qemus[row.qemu.name] = BuiltRow(row, problem=error.one_line())
    return [replace(qemus[row.qemu.name], row=row) for row in rows]


def make_jobs(built: Sequence[BuiltRow], runs: int, tests: Sequence[SuiteTest]) -> list[RowJob]:
    """The jobs of a session: every row in turn, so that a machine that slows down does so for all rows.

    Faults are injected in the first run only: whether a source survives does not depend on chance.

    :raises UsageError: the suite lacks a test.
    """
    jobs = []
    for number in range(1, runs + 1):
        for item in built:
            names = (UPDATE_TEST, *(item.row.failure_tests if number == 1 else ()))
            found = find_tests(names, tests, f"measure {item.row.name}", "docs/tests.md lists them, with dashes")
            jobs += [RowJob(item, test, number) for test in found if item.qemu]
    return jobs


def run_session(
    folder: Path,
    request: ScoreboardRequest,
    tests: Sequence[SuiteTest],
    *,
    parallel: int | None,
    progress: Progress,
    say: Callable[[str], None],
) -> list[Measured]:
    """Run the missing tests of a session.

    :param folder: of the session.
    :param parallel: tests at once; None for one per core in the lab, one natively.
    :param say: takes lines of progress.
    :returns: the figures of every row.
    :raises CprlibError: an error that ends the session; stored results stay.
    """
    rows, workers = choose_rows(request.only), worker_count(parallel, request.engine)
    with STORE.locked(folder) as partial:
        assets = build_assets(progress, lab=request.engine is not None)
        built = build_rows(rows, progress)
        for item in built:
            if item.problem:
                say(f"{item.row.name}: not measured: {item.problem}")
        children = Children()
        jobs = make_jobs(built, request.runs, tests)
        say(f"{len(jobs)} tests on {len(rows)} rows, {workers} at once, in {folder}")
        work = ScoreboardJobs(folder, partial, assets, request.engine, children)
        Pool(ScoreboardStrategy(jobs, work, ProgressLines(say)), workers, children).run()
        return [_measured(item, [job for job in jobs if job.built.row == item.row], work) for item in built]


def _measured(built: BuiltRow, jobs: Sequence[RowJob], work: ScoreboardJobs) -> Measured:
    """The figures of a row, from its stored jobs."""
    if built.problem or built.facts is None:
        return Measured(built.row, problem=built.problem)
    updates = [work.final(job) for job in jobs if job.test.id == UPDATE_TEST]
    failures = [work.final(job) for job in jobs if job.test.id != UPDATE_TEST]
    return measure(built.row, built.facts.version, updates, failures, load_policy(POLICY))
