"""Keeps soak.json up to date while a soak runs, and says how it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from cprlib.build.progress import seconds_text
from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.soak.record import CaseRow, Past, Sample, Session
from cprlib.campaign.soak.result import SoakResult
from cprlib.campaign.soak.soak_json import NOT_KEPT, SoakFile
from cprlib.report.formatting import one_line

LINE = 240  # characters of a line


class Recorder:
    """See :class:`cprlib.campaign.soak.loop.Watcher`.

    :param result: of the sessions before.
    :param seconds: of this session, for the time left.
    :param say: takes a line of progress.
    :param clock: seconds, for tests.
    """

    def __init__(
        self,
        result: SoakResult,
        seconds: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._say = say
        self._clock = clock
        self._begun = clock()
        self._closed = False
        self._file = SoakFile()
        self._lock = threading.Lock()
        sessions = (*result.past.sessions, Session(time.time_ns()))
        self._result = replace(result, past=replace(result.past, sessions=sessions))

    @property
    def result(self) -> SoakResult:
        """As it stands."""
        return self._result

    def ran(self, row: CaseRow) -> None:
        """See :meth:`cprlib.campaign.soak.loop.Watcher.ran`."""
        with self._lock:
            if self._closed:
                return  # a worker that came too late: the case is run again when the soak is resumed
            past = self._result.past
            self._update(replace(past, cases=(*past.cases, row)))
            self._tell(row)

    def rested(self, sample: Sample) -> None:
        """See :meth:`cprlib.campaign.soak.loop.Watcher.rested`."""
        with self._lock:
            if not self._closed:
                past = self._result.past
                self._update(replace(past, samples=(*past.samples, sample)))

    def close(self, state: str) -> SoakResult:
        """The result at the end, written; nothing is recorded any more.

        :param state: ``ended`` or ``interrupted``.
        """
        with self._lock:
            self._closed = True
            self._result = replace(self._result, state=state, finished_ns=time.time_ns())
            self._update(self._result.past)
            return self._result

    def _update(self, past: Past) -> None:
        worked = replace(past.sessions[-1], seconds=round(self._clock() - self._begun, 3))
        self._result = replace(self._result, past=replace(past, sessions=(*past.sessions[:-1], worked)))
        self._file.write(self._result)

    def _tell(self, row: CaseRow) -> None:
        elapsed = self._clock() - self._begun
        left = max(0.0, self._seconds - elapsed)
        past = self._result.past
        bad = sum(item.outcome not in NOT_KEPT or bool(item.left) for item in past.cases)
        head = f"[{seconds_text(elapsed)}, {seconds_text(left)} left] {len(past.cases)} cases, {bad} not passed; "
        what = " ".join([row.test, *(f"{name}={value}" for name, value in row.parameters.items())])
        outcome = "failed" if row.outcome == CellOutcome.DETECTED else row.outcome.value
        said = f": {row.messages[0]}" if row.messages else ""
        behind = f"; it left {row.left[0]}" if row.left else ""
        self._say(head + one_line(f"{row.number}: {what}: {outcome} after {row.seconds:.1f} s{said}{behind}", LINE))
