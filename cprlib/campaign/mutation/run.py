"""Run a mutation session: build the mutants, run their tests, write the report."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.build import store
from cprlib.build.mutants import build_mutant
from cprlib.build.progress import LineProgress, Progress, seconds_text
from cprlib.build.series import find_base
from cprlib.campaign.job import SuiteTest, compress, keep_records
from cprlib.campaign.mutation.output import write_report
from cprlib.campaign.mutation.plan import STORE, Build, MutationRequest, PlannedBuild
from cprlib.campaign.mutation.score import (
    BuildResults,
    MutationReport,
    UsedBinary,
    build_results,
    make_report,
    make_result,
)
from cprlib.campaign.outcome import WITHOUT_ALARM, JobOutcome, JudgedJob, Policies, judge_folder
from cprlib.campaign.pool import Task
from cprlib.campaign.progress import ProgressLines
from cprlib.campaign.session import RESULTS, ResultRecord, Session, has_key, open_session
from cprlib.errors import BuildFailed, InstrumentError
from cprlib.lab.engines import asset_parameters
from cprlib.qemu.binary import QemuBinary, file_digest
from cprlib.verdict.policy_file import load_policy

BUILDS_LOG = "builds.log"
USUAL_POLICY = "default"


@dataclass(frozen=True, slots=True)
class BuiltQemu:
    """A build's binary, or why there is none.

    :param sha256: of the binary.
    :param firmware: digest of its firmware.
    """

    qemu: QemuBinary | None
    sha256: str = ""
    firmware: str = ""
    problem: str = ""


def described_build(qemu: QemuBinary) -> BuiltQemu:
    return BuiltQemu(qemu, file_digest(qemu.path), store.key_of(firmware=qemu.firmware))


@dataclass(frozen=True, slots=True)
class MutationJobs:
    """Builds QEMUs and runs tests on them; called on the pool's threads.

    :param base: release of the mutants.
    """

    session: Session
    base: str
    policies: Policies

    def build(self, build: Build) -> BuiltQemu:
        """Build a QEMU, or find it built.

        :raises BuildFailed: this one cannot be built, others may.
        """
        qemu = self.session.assets.qemu
        if build.mutant:
            with (self.session.folder / BUILDS_LOG).open("a", encoding="utf-8") as log:
                qemu = build_mutant(build.mutant, self.base, LineProgress(log))
        return described_build(qemu)

    def is_stored(self, build: Build, built: BuiltQemu, test: SuiteTest) -> bool:
        """Whether this session has a result whose inputs are unchanged; one that decides nothing does not count."""
        return has_key(self.final(build, test), self._key(build, built, test)) and self.judge(build, test).decides

    def run(self, build: Build, built: BuiltQemu, test: SuiteTest) -> JudgedJob | None:
        """Run a test and store its result; None when it was ended from outside and nothing was stored."""
        place = f"{build.folder}/{test.id}"
        job = self.session.run_keyed(place, test, self._parameters(build, built), **_digests(build, built))
        if job is None:
            return None
        judged = judge_folder(job.folder, self.policies)
        if any(build.numbers):
            keep_records(job.folder)  # a session has thousands of these jobs
        elif judged.outcome in WITHOUT_ALARM:
            compress(job.folder)
        else:
            self.session.report(job.folder, USUAL_POLICY)
        self.session.store(job.folder, place)
        return judged

    def adopt(self, build: Build, built: BuiltQemu, test: SuiteTest) -> bool:
        """Whether a result is stored whose inputs are unchanged, in this session or copied from an earlier one.

        One that decides nothing is not copied from an earlier session, and on the good build not kept in this one: the
        test runs again.
        """
        key, place, own = self._key(build, built, test), f"{build.folder}/{test.id}", self.final(build, test)
        if has_key(own, key) and (any(build.numbers) or self.judge(build, test).decides):
            return True
        top = self.session.folder
        for other in sorted(top.parent.glob(f"*/{own.relative_to(top)}"), reverse=True):
            if other != own and has_key(other, key) and judge_folder(other, self.policies).decides:
                with contextlib.suppress(OSError):
                    self._store_copy(other, place, key)
                    return True
        return False

    def share(self, group: Build, build: Build, built: BuiltQemu, test: SuiteTest) -> JudgedJob:
        """Store the result of a build with several generated mutants as that of one of them."""
        self._store_copy(self.final(group, test), f"{build.folder}/{test.id}", self._key(build, built, test))
        return self.judge(build, test)

    def stored_tests(self, build: Build) -> set[str]:
        """Ids of the tests that may have a result on a build, in this session or an earlier one."""
        top = self.session.folder
        return {path.name for path in top.parent.glob(f"*/{self.session.final(build.folder).relative_to(top)}/*")}

    def judge(self, build: Build, test: SuiteTest) -> JudgedJob:
        return judge_folder(self.final(build, test), self.policies)

    def final(self, build: Build, test: SuiteTest) -> Path:
        return self.session.final(f"{build.folder}/{test.id}")

    def _store_copy(self, folder: Path, place: str, key: str) -> None:
        """Store a copy of a job's folder as the result with this key."""
        shutil.rmtree(self.session.partial / place, ignore_errors=True)
        copy = Path(shutil.copytree(folder, self.session.partial / place))
        replace(ResultRecord.read(copy), key=key).write(copy)
        self.session.store(copy, place)

    def _parameters(self, build: Build, built: BuiltQemu) -> Mapping[str, str]:
        chosen = {"stop_at": build.stop_at} if build.stop_at else {}
        if build.numbers:  # the target is for updates to another QEMU: in the others both have the mutant
            chosen |= {"mutant": ",".join(map(str, build.numbers))} | self.session.assets.qemu.parameters("target_")
        return asset_parameters(self.session.assets, self.session.engine, USUAL_POLICY, qemu=built.qemu) | chosen

    def _key(self, build: Build, built: BuiltQemu, test: SuiteTest) -> str:
        return self.session.key(test, self._parameters(build, built), **_digests(build, built))


def _digests(build: Build, built: BuiltQemu) -> dict[str, str]:
    """What a result depends on beside parameters and code."""
    return {"qemu": built.sha256, "firmware": built.firmware, "run": str(build.run)}


class MutationStrategy:
    """One build at a time, and its tests on all other workers; see :class:`cprlib.campaign.pool.Strategy`.

    A build uses a worker and that worker's share of the cores, so that a lab which measures beside it keeps its own.
    Builds follow the order of the plan; the next one starts before the tests run out.
    """

    def __init__(
        self, plan: Sequence[PlannedBuild], work: MutationJobs, progress: MutationProgress, workers: int
    ) -> None:
        self._to_build = collections.deque(plan)
        self._ready: collections.deque[tuple[PlannedBuild, BuiltQemu, SuiteTest]] = collections.deque()
        self._work = work
        self._progress = progress
        self._workers = workers
        self._building = False
        self.built: dict[str, BuiltQemu] = {}

    def next(self, running: int) -> Task | None:
        del running
        if self._to_build and not self._building and len(self._ready) < 2 * self._workers:
            self._building = True
            planned, share = self._to_build.popleft(), self._workers if self._ready else 1
            return Task(lambda: self._build(planned, share), self._add_build)
        if self._ready:
            planned, built, test = self._ready.popleft()
            return Task(
                lambda: self._work.run(planned.build, built, test),
                lambda judged: None if judged is None else self._progress.ran(planned, test, judged),
            )
        return None

    def _build(self, planned: PlannedBuild, share: int) -> tuple[PlannedBuild, BuiltQemu, list[SuiteTest], float]:
        begun, missing = time.monotonic(), list[SuiteTest]()
        try:
            with _share_of_cores(share):
                built = self._work.build(planned.build)
            missing = [test for test in planned.tests if not self._work.is_stored(planned.build, built, test)]
        except BuildFailed as error:
            built = BuiltQemu(None, problem=error.one_line())
        return planned, built, missing, time.monotonic() - begun

    def _add_build(self, result: tuple[PlannedBuild, BuiltQemu, list[SuiteTest], float]) -> None:
        planned, built, missing, seconds = result
        self._building = False
        self.built[planned.build.folder] = built
        self._progress.built(planned, built, len(missing), seconds)
        self._ready.extend((planned, built, test) for test in missing)


class MutationProgress:
    """A line for each build and each test, with an estimate of the time left.

    :param lines: takes the lines.
    :param plan: all builds.
    """

    def __init__(self, lines: ProgressLines, plan: Sequence[PlannedBuild]) -> None:
        self._lines = lines
        self._jobs = sum(len(planned.tests) for planned in plan)
        self.done = self._ran = 0

    def built(self, planned: PlannedBuild, built: BuiltQemu, missing: int, seconds: float) -> None:
        """A QEMU was built, found, or cannot be built.

        :param missing: tests to run on it, the others have a stored result.
        """
        count = len(planned.tests)
        self.done += count - missing if built.qemu else count
        if built.qemu is None:
            self._line(f"{planned.build.name}: not built: {built.problem}")
        elif planned.build.mutant:
            self._line(f"{planned.build.name}: built in {seconds_text(seconds)}")
        if built.qemu and missing < count:
            self._line(f"{planned.build.name}: {count - missing} of {count} results are stored")

    def ran(self, planned: PlannedBuild, test: SuiteTest, judged: JudgedJob) -> None:
        self.done += 1
        self._ran += 1
        mutant, must, word = planned.build.mutant, planned.build.must_kill(test.id), str(judged.outcome)
        if mutant and judged.outcome == JobOutcome.FAILED:
            word = "killed" if not must or judged.matches(mutant.message) else "failed with another message"
        survived = " (must kill the mutant)" if must and word != "killed" else ""
        took = f" after {judged.seconds:.1f} s" if judged.seconds is not None else ""
        message = f": {judged.messages[0]}" if judged.messages else ""
        self._line(f"{planned.build.name}, {test.id}: {word}{survived}{took}{message}")

    def left(self) -> float | None:
        """Seconds that the rest will take; None before the first test has ended."""
        return self._lines.elapsed / self._ran * (self._jobs - self.done) if self._ran else None

    def _line(self, text: str) -> None:
        self._lines.line(f"{self.done}/{self._jobs} {text}", self.left())


def prove(
    folder: Path,
    request: MutationRequest,
    plan: Sequence[PlannedBuild],
    *,
    parallel: int | None,
    progress: Progress,
    say: Callable[[str], None],
) -> MutationReport:
    """Run the missing tests of a session and write its report.

    :param folder: of the session.
    :param plan: good build first, by :func:`cprlib.campaign.mutation.plan.make_plan`.
    :param parallel, progress: as of :func:`cprlib.campaign.session.open_session`.
    :param say: takes lines of progress.
    :raises CprlibError: an error that ends the session; stored results stay.
    """
    policies = load_policies(request.base)
    with open_session(STORE, folder, request.engine, parallel, progress, request.base) as session:
        work, workers = MutationJobs(session, request.base, policies), session.workers
        jobs = sum(len(planned.tests) for planned in plan)
        say(f"{jobs} tests on {len(plan)} builds, {workers} at once, in {folder}")
        strategy = MutationStrategy(plan, work, MutationProgress(ProgressLines(say), plan), workers)
        session.run_all(strategy)
        ordered = sorted(plan, key=lambda planned: planned.build.mutant is not None)
        builds = [read_results(folder, item, strategy.built[item.build.folder], policies) for item in ordered]
        report = make_report(builds, plan[0].tests, request, session.environment())
        write_report(folder, report)
    return report


def load_policies(base: str) -> Policies:
    """The policies for builds of a base; a stand-in has no ``cpr=on``, which is no defect of it."""
    usual = load_policy(USUAL_POLICY)
    return Policies(usual, usual if find_base(base).stand_in_on else load_policy("strict"))


def read_results(folder: Path, planned: PlannedBuild, built: BuiltQemu, policies: Policies) -> BuildResults:
    """A build with its stored results, judged by today's mutants and policies."""
    results = []
    for test in planned.tests if built.qemu else ():
        name = f"{RESULTS}/{planned.build.folder}/{test.id}"
        with contextlib.suppress(InstrumentError):  # it never ran
            record = ResultRecord.read(folder / name)
            judged = judge_folder(folder / name, policies)
            results.append(make_result(planned.build, test.id, judged, name, record.lab_lost, changed=record.changed))
    qemu = UsedBinary(str(built.qemu.path) if built.qemu else "", built.sha256)
    return build_results(planned.build, [test.id for test in planned.tests], results, qemu, built.problem)


@contextlib.contextmanager
def _share_of_cores(workers: int) -> Iterator[None]:
    """Keep this thread, and the processes it starts, on one worker's share of the cores that it may use."""
    allowed = os.sched_getaffinity(0)
    share = max(1, len(allowed) // workers)
    try:
        os.sched_setaffinity(0, set(sorted(allowed)[-share:]))
        yield
    finally:
        os.sched_setaffinity(0, allowed)
