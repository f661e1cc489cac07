"""Run a soak session: cases on all workers, samples of the harness while nothing runs, and the report."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cprlib.build.progress import Progress
from cprlib.campaign.job import SuiteTest
from cprlib.campaign.outcome import WITHOUT_ALARM, Policies
from cprlib.campaign.page import write_page
from cprlib.campaign.pool import Task
from cprlib.campaign.progress import ProgressLines
from cprlib.campaign.session import open_session
from cprlib.campaign.soak.jobs import KeptFolders, SoakJobs
from cprlib.campaign.soak.output import PAGE_FILE, report_html, write_json_file
from cprlib.campaign.soak.resources import ChildrenWatch
from cprlib.campaign.soak.result import (
    CASES_FILE,
    STORE,
    ResourceSample,
    SoakCase,
    SoakHistory,
    SoakRequest,
    SoakResult,
    SoakSession,
    append_case,
    read_soak,
    write_cases,
)
from cprlib.errors import UsageError
from cprlib.qemu.binary import file_digest
from cprlib.verdict.policy_file import load_policy

SAMPLES = 40  # of the harness in a session, as far as the cases leave room
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 15.0, 120.0


class Recorder:
    """Records a soak, with a line of progress for each case: soak.json is written at each sample and at the end.

    The cases are in a file, not in memory: with their number the memory that a soak watches would grow.

    :param result: of the sessions before.
    :param seconds: of this session, for the time left.
    :param qemu_sha256: of the QEMU under test. :param workers: cases at once.
    """

    def __init__(
        self, result: SoakResult, seconds: float, lines: ProgressLines, qemu_sha256: str = "", workers: int = 1
    ) -> None:
        self._seconds = seconds
        self._lines = lines
        history = result.history
        self._cases, self._bad = len(history.cases), sum(case.worst not in WITHOUT_ALARM for case in history.cases)
        write_cases(result.folder, history)
        sessions = (*history.sessions, SoakSession(time.time_ns(), qemu_sha256=qemu_sha256, workers=workers))
        self._result = replace(result, history=replace(history, sessions=sessions, cases=()))

    def add_case(self, case: SoakCase) -> None:
        append_case(self._result.folder, case)
        self._cases += 1
        self._bad += case.worst not in WITHOUT_ALARM
        self._say(case)

    def add_sample(self, sample: ResourceSample) -> None:
        history = self._result.history
        self._update(replace(history, samples=(*history.samples, sample)))
        write_json_file(self._result)

    def close(self, state: str) -> SoakResult:
        """Write the final result.

        :param state: ``ended`` or ``interrupted``.
        """
        self._result = replace(self._result, state=state, finished_ns=time.time_ns())
        self._update(replace(self._result.history, cases=read_soak(self._result.folder).cases))
        write_json_file(self._result)
        (self._result.folder / CASES_FILE).unlink(missing_ok=True)  # its cases are in soak.json
        return self._result

    def _update(self, history: SoakHistory) -> None:
        session = replace(history.sessions[-1], seconds=round(self._lines.elapsed, 3))
        self._result = replace(self._result, history=replace(history, sessions=(*history.sessions[:-1], session)))

    def _say(self, case: SoakCase) -> None:
        words = " ".join([case.test, *(f"{name}={value}" for name, value in case.parameters.items())])
        message = f": {case.messages[0]}" if case.messages else ""
        left = f"; it left {case.left[0]}" if case.left else ""
        text = f"{case.number}: {words}: {case.worst} after {case.seconds:.1f} s{message}{left}"
        self._lines.line(
            f"{self._cases} cases, {self._bad} not passed; {text}", max(0.0, self._seconds - self._lines.elapsed)
        )


@dataclass(slots=True)
class SoakStrategy:
    """Cases until the time is over, with samples of the harness between; see :class:`cprlib.campaign.pool.Strategy`.

    A sample is taken at the beginning, at the end, and when the interval has passed: then no further case starts until
    those that run have ended.

    :param numbers: of the cases; the session also ends after the last one.
    :param seconds: after which no case starts.
    :param interval_s: between two samples, at least.
    :param before_s, cases: of earlier sessions: seconds they ran, cases they finished.
    """

    numbers: Iterator[int]
    work: SoakJobs
    recorder: Recorder
    seconds: float
    interval_s: float
    before_s: float = 0.0
    cases: int = 0
    _begun: float = field(init=False, default_factory=time.monotonic)
    _sampled: float = field(init=False, default_factory=time.monotonic)
    _started: bool = field(init=False, default=False)
    _ended: bool = field(init=False, default=False)
    _sampling: bool = field(init=False, default=False)
    _ran: bool = field(init=False, default=False)

    def next(self, running: int) -> Task | None:
        if self._sampling:
            return None
        if not self._started:
            self._started = True
            return self._sample()
        now = time.monotonic()
        if now - self._begun < self.seconds:
            if self._ran and now - self._sampled >= self.interval_s:
                return None if running else self._sample()
            number = next(self.numbers, None)
            if number is not None:
                return Task(lambda: self.work.run(number), self._add_case)
        if running or self._ended:
            return None
        self._ended = True
        return self._sample()

    def _sample(self) -> Task:
        self._sampling = True
        at_s, cases = self.before_s + time.monotonic() - self._begun, self.cases
        return Task(lambda: self.work.sample(at_s, cases), self._add_sample)

    def _add_sample(self, sample: ResourceSample) -> None:
        self._sampling, self._ran, self._sampled = False, False, time.monotonic()
        self.recorder.add_sample(sample)

    def _add_case(self, case: SoakCase | None) -> None:
        self._ran = True
        if case is not None:
            self.cases += 1
            self.recorder.add_case(case)


def seconds_left(folder: Path, request: SoakRequest, hours: float | None) -> float:
    """Length of a session.

    :param hours: asked for now; None for the rest of the first request.
    :raises UsageError: nothing is left, or the soak's file is broken.
    """
    if hours is not None:
        return hours * 3600
    left = request.hours * 3600 - read_soak(folder).seconds
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
    :param parallel, progress: as of :func:`cprlib.campaign.session.open_session`.
    :param say: takes lines of progress.
    :param command: the command line of this session.
    :param show: takes the result once it is written, also when the session is interrupted.
    :raises CprlibError: an error that ends the session; results so far stay.
    """
    known = {test.id: test for test in tests}
    gone = [name for name in request.tests if name not in known]
    if gone:
        raise UsageError("resume the soak", f"the suite has no test {gone[0]!r} any more", "start another one")
    policy = load_policy(request.policy)
    with (
        open_session(STORE, folder, request.engine, parallel, progress, request.base, request.qemu) as session,
        ChildrenWatch() as watch,  # after the builds, whose compilers are no part of it
    ):
        history = read_soak(folder)
        sha256 = file_digest(session.assets.qemu.path)
        if any(earlier.qemu_sha256 not in ("", sha256) for earlier in history.sessions):
            raise UsageError(f"resume {folder}", "QEMU is another binary than before", "start another soak")
        kept = KeptFolders(folder, request.keep, request.keep_mib, history.cases)
        work = SoakJobs(session, request, len(history.sessions), known, Policies(policy, policy), kept, watch)
        result = SoakResult(folder, request, history, session.environment(), command=command)
        recorder = Recorder(result, seconds, ProgressLines(say), sha256, session.workers)
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
            session.run_all(strategy)
            state = "ended"
        finally:
            result = recorder.close(state)
            write_page(folder / PAGE_FILE, report_html(result))
            show(result)
    return result
