"""Run a scoreboard session: make the QEMUs, then run the tests of every row, several at once."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.build.progress import Progress
from cprlib.campaign.job import SuiteTest, compress, find_tests
from cprlib.campaign.outcome import Policies, judge_folder
from cprlib.campaign.pool import Task
from cprlib.campaign.progress import ProgressLines
from cprlib.campaign.scoreboard.figures import Measured, measure
from cprlib.campaign.scoreboard.plan import STORE, UPDATE_TEST, Row, ScoreboardRequest, choose_rows
from cprlib.campaign.session import Session, has_key, open_session
from cprlib.errors import BuildFailed, DownloadFailed, NotSupported
from cprlib.lab.engines import asset_parameters
from cprlib.qemu.binary import QemuBinary, probe
from cprlib.qemu.facts import QemuFacts
from cprlib.verdict.policy import Policy
from cprlib.verdict.policy_file import load_policy

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
        return f"{self.built.row.name}/run-{self.number}/{self.test.id}"

    @property
    def sha256(self) -> str:
        return self.built.facts.sha256 if self.built.facts else ""


@dataclass(frozen=True, slots=True)
class ScoreboardJobs:
    """Runs tests and stores their results; called on the pool's threads."""

    session: Session
    policies: Policies

    def is_stored(self, job: RowJob) -> bool:
        """Whether there is a result whose inputs are unchanged; one that decides nothing does not count."""
        folder = self.session.final(job.place)
        key = self.session.key(job.test, self._parameters(job), sha256=job.sha256)
        return has_key(folder, key) and judge_folder(folder, self.policies).decides

    def run(self, job: RowJob) -> bool:
        """Run a test and store its result; False when it was ended from outside."""
        done = self.session.run_keyed(job.place, job.test, self._parameters(job), sha256=job.sha256)
        if done:
            compress(done.folder)
            self.session.store(done.folder, job.place)
        return done is not None

    def _parameters(self, job: RowJob) -> Mapping[str, str]:
        own = job.built.row.parameters() if job.test.id == UPDATE_TEST else {}
        return {**asset_parameters(self.session.assets, self.session.engine, POLICY, qemu=job.built.qemu), **own}


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
            found = find_tests(names, tests, f"measure {item.row.name}")
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
    :param parallel, progress: as of :func:`cprlib.campaign.session.open_session`.
    :param say: takes lines of progress.
    :returns: the figures of every row.
    :raises CprlibError: an error that ends the session; stored results stay.
    """
    rows, policy = choose_rows(request.only), load_policy(POLICY)
    with open_session(STORE, folder, request.engine, parallel, progress) as session:
        built = build_rows(rows, progress)
        for item in built:
            if item.problem:
                say(f"{item.row.name}: not measured: {item.problem}")
        jobs = make_jobs(built, request.runs, tests)
        say(f"{len(jobs)} tests on {len(rows)} rows, {session.workers} at once, in {folder}")
        work = ScoreboardJobs(session, Policies(policy, policy))
        session.run_all(ScoreboardStrategy(jobs, work, ProgressLines(say)))
        return [_measured(item, [job for job in jobs if job.built.row == item.row], session, policy) for item in built]


def _measured(built: BuiltRow, jobs: Sequence[RowJob], session: Session, policy: Policy) -> Measured:
    if built.problem or built.facts is None:
        return Measured(built.row, problem=built.problem)
    updates = [session.final(job.place) for job in jobs if job.test.id == UPDATE_TEST]
    failures = [session.final(job.place) for job in jobs if job.test.id != UPDATE_TEST]
    return measure(built.row, built.facts.version, updates, failures, policy)
