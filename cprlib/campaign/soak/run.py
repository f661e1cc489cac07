"""Run a soak session: cases on all workers, samples of the harness while nothing runs, and the report."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cprlib.build.assets import build_assets
from cprlib.build.progress import Progress
from cprlib.campaign.job import JobRunner, SuiteTest
from cprlib.campaign.outcome import QUIET, JobOutcome, JudgedJob, Policies, judge_folder
from cprlib.campaign.page import ProgressLines
from cprlib.campaign.pool import Children, Pool, Task, worker_count
from cprlib.campaign.soak.draw import Draw, draw
from cprlib.campaign.soak.output import write_json_file, write_report
from cprlib.campaign.soak.resources import (
    MIB,
    ChildrenWatch,
    describe,
    disk_used,
    mark,
    marked,
    of_soak,
    read_resources,
)
from cprlib.campaign.soak.result import (
    KEPT,
    STORE,
    ResourceSample,
    SoakCase,
    SoakHistory,
    SoakRequest,
    SoakResult,
    SoakSession,
    read_history,
)
from cprlib.campaign.store import store_folder
from cprlib.deadline import Deadline
from cprlib.errors import CprlibError, DeadlineExceeded, UsageError
from cprlib.files import cache_folder
from cprlib.lab.avocado_run import avocado_environment
from cprlib.lab.backend import asset_parameters
from cprlib.process import spawn
from cprlib.qemu.binary import QemuBinary
from cprlib.report.environment import describe_environment
from cprlib.report.formatting import one_line
from cprlib.verdict.policy_file import load_policy

SAMPLES = 40  # of the harness in a session, as far as the cases leave room
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 15.0, 120.0
GONE_S = 10.0  # time for the labs and QEMUs of a case to end after Avocado
REPORT_S = 120.0
MESSAGES, MESSAGE_LENGTH = 4, 400
PRIORITY = {JobOutcome.FAILED: 3, JobOutcome.CRASHED: 2, JobOutcome.INCONCLUSIVE: 1}  # of a folder, to be kept


class KeptFolders:
    """Folders of cases that did not pass, within limits; a failure replaces a crash or an inconclusive case.

    :param folder: of the soak.
    :param most: folders. :param most_mib: size of all together.
    :param cases: that are known already.
    """

    def __init__(self, folder: Path, most: int, most_mib: int, cases: Iterable[SoakCase] = ()) -> None:
        self._folder = folder
        self._most = most
        self._most_bytes = most_mib * MIB
        self._priorities = {case.folder: PRIORITY.get(case.worst, 0) for case in cases}

    def add(self, temporary: Path, case: SoakCase) -> bool:
        """Keep the folder of a case, or delete it.

        :param temporary: where it is.
        :returns: whether it is kept.
        :raises EnvironmentFailure: it cannot be renamed.
        """
        priority, size = PRIORITY.get(case.worst, 0), disk_used(temporary)
        sizes = {path: disk_used(path) for path in sorted((self._folder / KEPT).glob("*/"))}

        def full() -> bool:
            return len(sizes) >= self._most or sum(sizes.values()) + size > self._most_bytes

        # the least important goes first, and of those the newest: the first of its kind says most
        replaceable = sorted(
            (path for path in sizes if self._priority(path) < priority),
            key=lambda path: (-self._priority(path), path.name),
        )
        while full() and replaceable:
            path = replaceable.pop()
            del sizes[path]
            shutil.rmtree(path, ignore_errors=True)
        if not priority or full():
            shutil.rmtree(temporary, ignore_errors=True)
            return False
        store_folder(temporary, self._folder / case.folder)
        self._priorities[case.folder] = priority
        return True

    def _priority(self, path: Path) -> int:
        return self._priorities.get(str(path.relative_to(self._folder)), 0)  # 0: the case was killed and runs again


class SoakWork(Protocol):
    """Runs cases and samples the harness; called on the pool's threads."""

    def run(self, number: int) -> SoakCase | None:
        """Run the case of that number; None when it was ended from outside and has to run again."""

    def sample(self, at_s: float, cases: int) -> ResourceSample:
        """Sample the harness; no case runs."""


@dataclass(frozen=True, slots=True)
class SoakJobs:
    """See :class:`SoakWork`.

    :param folder: of the soak; its path marks the processes, because several soaks may run on a machine.
    :param partial: for jobs that run.
    :param session: number of this session, from 0.
    :param tests: by id.
    :param parameters: of Avocado, for every case.
    """

    folder: Path
    partial: Path
    request: SoakRequest
    session: int
    tests: Mapping[str, SuiteTest]
    parameters: Mapping[str, str]
    policies: Policies
    lab_kernel: Path | None
    kept: KeptFolders
    children: Children
    watch: ChildrenWatch
    _storing: threading.Lock = field(default_factory=threading.Lock)

    def run(self, number: int) -> SoakCase | None:
        """See :meth:`SoakWork.run`."""
        soak, drawn = str(self.folder), self._draw(number)
        runner = JobRunner(self.request.engine, self.lab_kernel, self.children.add, mark(soak, number))
        parameters = {**self.parameters, **drawn.parameters}
        place = self.partial / f"{number:06d}-{drawn.test}"
        job = runner.run(place, self.tests[drawn.test].reference, parameters)
        if self.children.stopped:
            return None
        judged = judge_folder(job.folder, self.policies)
        case = SoakCase(
            number,
            self.session,
            drawn.test,
            drawn.parameters,
            judged.outcome,
            _messages(judged),
            job.started_ns,
            job.seconds,
            job.lab_lost,
            self._left(soak, number),
        )
        if case.worst in QUIET:
            shutil.rmtree(job.folder, ignore_errors=True)
        else:
            with self._storing:
                self._report(job.folder)
                self.kept.add(job.folder, case)
        return case

    def _draw(self, number: int) -> Draw:
        return draw(self.request.seed, number, self.request.tests, self.request.choices)

    def _left(self, soak: str, number: int) -> tuple[str, ...]:
        """Processes of a case that do not end with it."""
        with contextlib.suppress(DeadlineExceeded):
            Deadline(GONE_S, f"end the processes of case {number}").poll(
                lambda: None if marked(soak, number) else True, interval=0.1
            )
        return tuple(one_line(describe(pid), MESSAGE_LENGTH) for pid in marked(soak, number))

    def _report(self, folder: Path) -> None:
        """Write report.html in a process of its own, so that drawing does not count as memory of the harness."""
        command = [sys.executable, "-m", "cprlib.cli.main", "report", str(folder), "--policy", self.request.policy]
        with (
            contextlib.suppress(CprlibError, subprocess.TimeoutExpired),
            spawn(
                command,
                purpose="write the report of a case",
                env=avocado_environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as child,
        ):
            self.children.add(child)
            child.wait(timeout=REPORT_S)

    def sample(self, at_s: float, cases: int) -> ResourceSample:
        """See :meth:`SoakWork.sample`."""
        soak = str(self.folder)
        with contextlib.suppress(DeadlineExceeded):
            Deadline(GONE_S, "end all processes of the soak").poll(
                lambda: None if of_soak(soak) else True, interval=0.1
            )
        values = read_resources(self.folder, self.folder / KEPT, cache_folder(), soak, self.watch.take())
        return ResourceSample(self.session, round(at_s, 3), cases, values)


def _messages(judged: JudgedJob) -> tuple[str, ...]:
    shown = [one_line(text, MESSAGE_LENGTH) for text in judged.messages[:MESSAGES]]
    more = len(judged.messages) - len(shown)
    return (*shown, *([f"and {more} more"] if more else []))


class Recorder:
    """Writes soak.json after each event, and a line of progress for each case.

    :param result: of the sessions before.
    :param seconds: of this session, for the time left.
    """

    def __init__(self, result: SoakResult, seconds: float, lines: ProgressLines) -> None:
        self._seconds = seconds
        self._lines = lines
        self._closed = False
        self._lock = threading.Lock()
        sessions = (*result.history.sessions, SoakSession(time.time_ns()))
        self._result = replace(result, history=replace(result.history, sessions=sessions))

    def add_case(self, case: SoakCase) -> None:
        """A case ended."""
        with self._lock:
            if not self._closed:  # else it runs again when the soak is resumed
                history = self._result.history
                self._update(replace(history, cases=(*history.cases, case)))
                self._say(case)

    def add_sample(self, sample: ResourceSample) -> None:
        """The harness was sampled."""
        with self._lock:
            if not self._closed:
                history = self._result.history
                self._update(replace(history, samples=(*history.samples, sample)))

    def close(self, state: str) -> SoakResult:
        """Write the final result; later events are dropped.

        :param state: ``ended`` or ``interrupted``.
        """
        with self._lock:
            self._closed = True
            self._result = replace(self._result, state=state, finished_ns=time.time_ns())
            self._update(self._result.history)
            return self._result

    def _update(self, history: SoakHistory) -> None:
        session = replace(history.sessions[-1], seconds=round(self._lines.elapsed, 3))
        self._result = replace(self._result, history=replace(history, sessions=(*history.sessions[:-1], session)))
        write_json_file(self._result)

    def _say(self, case: SoakCase) -> None:
        cases = self._result.history.cases
        bad = sum(item.worst not in QUIET for item in cases)
        words = " ".join([case.test, *(f"{name}={value}" for name, value in case.parameters.items())])
        message = f": {case.messages[0]}" if case.messages else ""
        left = f"; it left {case.left[0]}" if case.left else ""
        text = f"{case.number}: {words}: {case.outcome} after {case.seconds:.1f} s{message}{left}"
        self._lines.line(f"{len(cases)} cases, {bad} not passed; {text}", max(0.0, self._seconds - self._lines.elapsed))


class SoakStrategy:
    """Cases until the time is over, with samples of the harness between; see :class:`cprlib.campaign.pool.Strategy`.

    A sample is taken at the beginning, at the end, and when the interval has passed: then no further case starts until
    those that run have ended.

    :param numbers: of the cases; the session also ends after the last one.
    :param seconds: after which no case starts.
    :param interval_s: between two samples, at least.
    :param before_s, cases: of earlier sessions: seconds they ran, cases they finished.
    :param clock: seconds, for tests.
    """

    def __init__(
        self,
        numbers: Iterable[int],
        work: SoakWork,
        recorder: Recorder,
        *,
        seconds: float,
        interval_s: float,
        before_s: float = 0.0,
        cases: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._numbers = iter(numbers)
        self._work = work
        self._recorder = recorder
        self._seconds = seconds
        self._interval_s = interval_s
        self._before_s = before_s
        self._cases = cases
        self._clock = clock
        self._begun = self._sampled = clock()
        self._started = self._ended = self._sampling = self._ran = False

    def next(self, running: int) -> Task | None:
        """See :meth:`cprlib.campaign.pool.Strategy.next`."""
        if self._sampling:
            return None
        if not self._started:
            self._started = True
            return self._sample()
        now = self._clock()
        if now - self._begun < self._seconds:
            if self._ran and now - self._sampled >= self._interval_s:
                return None if running else self._sample()
            number = next(self._numbers, None)
            if number is not None:
                return Task(lambda: self._work.run(number), self._add_case)
        if running or self._ended:
            return None
        self._ended = True
        return self._sample()

    def _sample(self) -> Task:
        self._sampling = True
        at_s, cases = self._before_s + self._clock() - self._begun, self._cases
        return Task(lambda: self._work.sample(at_s, cases), self._add_sample)

    def _add_sample(self, sample: ResourceSample) -> None:
        self._sampling, self._ran, self._sampled = False, False, self._clock()
        self._recorder.add_sample(sample)

    def _add_case(self, case: SoakCase | None) -> None:
        self._ran = True
        if case is not None:
            self._cases += 1
            self._recorder.add_case(case)


def seconds_left(folder: Path, request: SoakRequest, hours: float | None) -> float:
    """Length of a session.

    :param hours: asked for now; None for the rest of the first request.
    :raises UsageError: nothing is left, or the soak's file is broken.
    """
    if hours is not None:
        return hours * 3600
    left = request.hours * 3600 - read_history(folder).seconds
    if left <= 0:
        raise UsageError(f"resume {folder}", f"its {request.hours:g} hours are over", "give --hours for more")
    return left


def sample_interval(seconds: float) -> float:
    """Seconds between two samples in a session of that length."""
    return min(max(seconds / SAMPLES, SHORTEST_INTERVAL_S), LONGEST_INTERVAL_S)


def missing_numbers(history: SoakHistory) -> Iterator[int]:
    """Numbers of the cases that have not ended yet, without end; interrupted ones come first."""
    done = {case.number for case in history.cases}
    return (number for number in itertools.count(1) if number not in done)


def soak(
    folder: Path,
    request: SoakRequest,
    tests: Sequence[SuiteTest],
    seconds: float,
    *,
    parallel: int | None,
    command: str,
    progress: Progress,
    say: Callable[[str], None],
    show: Callable[[SoakResult], None],
) -> SoakResult:
    """Run one session of a soak and write its result.

    :param folder: of the soak.
    :param tests: of the suite.
    :param seconds: after which no case starts.
    :param parallel: tests at once; None for one per core in the lab, one natively.
    :param command: the command line of this session.
    :param say: takes lines of progress.
    :param show: takes the result once it is written, also when the session is interrupted.
    :raises CprlibError: an error that ends the session; results so far stay.
    """
    known = {test.id: test for test in tests}
    gone = [name for name in request.tests if name not in known]
    if gone:
        raise UsageError("resume the soak", f"the suite has no test {gone[0]!r} any more", "start another one")
    policy = load_policy(request.policy)
    workers = worker_count(parallel, request.engine)
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(STORE.locked(folder))
        history = read_history(folder)
        brought = QemuBinary(Path(request.qemu), Path(request.firmware) if request.firmware else None)
        qemu = brought if request.qemu else None
        assets = build_assets(progress, lab=request.engine is not None, qemu=qemu, base=request.base)
        environment = describe_environment(mode="lab" if request.engine else "native", engine=request.engine or "")
        children = Children()
        watch = stack.enter_context(ChildrenWatch())  # after the builds, whose compilers are no part of it
        work = SoakJobs(
            folder,
            partial,
            request,
            len(history.sessions),
            known,
            asset_parameters(assets, request.engine, request.policy),
            Policies(policy, policy),
            assets.lab_kernel,
            KeptFolders(folder, request.keep, request.keep_mib, history.cases),
            children,
            watch,
        )
        result = SoakResult(folder, request, history, environment, command=command)
        recorder = Recorder(result, seconds, ProgressLines(say))
        strategy = SoakStrategy(
            missing_numbers(history),
            work,
            recorder,
            seconds=seconds,
            interval_s=sample_interval(seconds),
            before_s=history.seconds,
            cases=len(history.cases),
        )
        state = "interrupted"
        try:
            Pool(strategy, workers, children).run()
            state = "ended"
        finally:
            result = recorder.close(state)
            write_report(result)
            show(result)
    return result
