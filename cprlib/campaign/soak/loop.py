"""Cases on several workers, with rests between them in which nothing runs and the harness is looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from cprlib.campaign.soak.record import CaseRow, Sample
from cprlib.campaign.workers import Children, Workers


class Work(Protocol):
    """What the loop has done; :meth:`run` is called by its threads, the rest by one at a time."""

    def run(self, number: int) -> CaseRow | None:
        """Run the case of that number; None when it was ended from outside and is to be run again."""

    def sample(self, at_s: float, cases: int) -> Sample:
        """Look at the harness; nothing runs."""


class Watcher(Protocol):
    """Is told what happens, one call at a time."""

    def ran(self, row: CaseRow) -> None:
        """A case has ended."""

    def rested(self, sample: Sample) -> None:
        """The harness was looked at."""


class Loop:
    """One session.

    :param numbers: of the cases; the session ends with the last one, if there is one.
    :param seconds: after which no case is begun.
    :param rest_s: at least so long between two looks at the harness.
    :param before_s, cases: of earlier sessions: seconds they worked, cases they ran.
    :param clock: seconds, for tests.
    """

    def __init__(
        self,
        numbers: Iterable[int],
        work: Work,
        watcher: Watcher,
        children: Children,
        *,
        workers: int,
        seconds: float,
        rest_s: float,
        before_s: float = 0.0,
        cases: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._numbers = iter(numbers)
        self._work = work
        self._watcher = watcher
        self._children = children
        self._count = workers
        self._seconds = seconds
        self._rest_s = rest_s
        self._before_s = before_s
        self._cases = cases
        self._clock = clock
        self._begun = self._rested = clock()
        self._running = 0
        self._ran = False  # since the last rest
        self._changed = threading.Condition()

    @property
    def worked(self) -> float:
        """Seconds of this session so far."""
        return self._clock() - self._begun

    def run(self) -> None:
        """Work until the time is over.

        :raises CprlibError: what a worker met that others would meet too.
        :raises KeyboardInterrupt: all that ran was ended.
        """
        self._rest()
        Workers(self._count, self._worker, self._stop, "soak").run()
        self._rest()

    def _stop(self) -> None:
        self._children.stop()
        with self._changed:
            self._changed.notify_all()

    def _worker(self) -> None:
        while (number := self._next()) is not None:
            row = None
            try:
                row = self._work.run(number)
            finally:
                with self._changed:
                    self._running -= 1
                    self._ran = True
                    if row is not None:
                        self._cases += 1
                        self._watcher.ran(row)
                    self._changed.notify_all()

    def _next(self) -> int | None:
        """The next case's number, once no rest is due; None when the time is over, or there is none."""
        with self._changed:
            while not self._children.stopped and self.worked < self._seconds:
                if not self._ran or self._clock() - self._rested < self._rest_s:
                    number = next(self._numbers, None)
                    self._running += number is not None
                    return number
                if self._running:
                    self._changed.wait()
                else:
                    self._rest()
            return None

    def _rest(self) -> None:
        sample = self._work.sample(self._before_s + self.worked, self._cases)
        self._rested, self._ran = self._clock(), False
        self._watcher.rested(sample)
