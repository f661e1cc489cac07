"""Builds and cells on the machine's cores: as many at once as there are workers, one build at a time.

A build takes a worker's place and one worker's share of the cores, so that a lab that measures beside it keeps its own.
Rows are worked off in order, so that a row is whole soon; the next build is begun before the cells run out.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cprlib.campaign.mutation.matrix import Build
from cprlib.campaign.mutation.outcome import JudgedCell
from cprlib.campaign.mutation.tests import SuiteTest
from cprlib.campaign.workers import Children, Workers
from cprlib.errors import BuildFailed
from cprlib.qemu.binary import QemuBinary


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A build and the tests that shall be run on it."""

    build: Build
    tests: tuple[SuiteTest, ...]


@dataclass(frozen=True, slots=True)
class BuiltRow:
    """A row's binary, or why there is none.

    :param sha256: of the binary.
    :param firmware: digest of its firmware.
    """

    qemu: QemuBinary | None
    sha256: str = ""
    firmware: str = ""
    problem: str = ""


class Work(Protocol):
    """What the pool has done; called by its threads."""

    def build(self, row: PlannedRow) -> BuiltRow:
        """Build a row's QEMU, or find it built.

        :raises BuildFailed: this row cannot be built, others may.
        """

    def keep(self, row: PlannedRow, built: BuiltRow, test: SuiteTest) -> bool:
        """Whether the cell was stored before and is good still."""

    def run(self, row: PlannedRow, built: BuiltRow, test: SuiteTest) -> JudgedCell | None:
        """Run a cell and store it; None when it was ended from outside and nothing was stored."""


class Watcher(Protocol):
    """Is told what happens, one call at a time."""

    def built(self, row: PlannedRow, built: BuiltRow, seconds: float) -> None:
        """A row's QEMU is there, or is known not to come."""

    def kept(self, row: PlannedRow, count: int) -> None:
        """So many of a row's cells need not be run."""

    def ran(self, row: PlannedRow, test: SuiteTest, judged: JudgedCell) -> None:
        """A cell was run."""


@dataclass(frozen=True, slots=True)
class _BuildTask:
    row: PlannedRow


@dataclass(frozen=True, slots=True)
class _CellTask:
    row: PlannedRow
    built: BuiltRow
    test: SuiteTest


class Pool:
    """Works a plan off.

    :param workers: tests at once.
    :param children: of the work, ended when the body of :meth:`run` is interrupted.
    """

    def __init__(
        self, plan: Sequence[PlannedRow], work: Work, watcher: Watcher, workers: int, children: Children
    ) -> None:
        self._work = work
        self._watcher = watcher
        self._workers = workers
        self._children = children
        self._to_build = collections.deque(plan)
        self._ready: collections.deque[_CellTask] = collections.deque()
        self._building = False
        self._changed = threading.Condition()
        self._built: dict[str, BuiltRow] = {}

    def run(self) -> Mapping[str, BuiltRow]:
        """Do all of it.

        :returns: what was built, by the folder of the build.
        :raises CprlibError: what a worker met that others would meet too.
        """
        Workers(self._workers, self._worker, self._stop, "prove").run()
        return self._built

    def _stop(self) -> None:
        self._children.stop()
        with self._changed:
            self._to_build.clear()
            self._ready.clear()
            self._building = False  # of a build that failed, or that nobody waits for any more
            self._changed.notify_all()

    def _worker(self) -> None:
        while (task := self._next()) is not None:
            if isinstance(task, _BuildTask):
                self._build(task.row)
            else:
                self._cell(task)

    def _next(self) -> _BuildTask | _CellTask | None:
        with self._changed:
            while not self._children.stopped:
                if self._to_build and not self._building and len(self._ready) < 2 * self._workers:
                    self._building = True
                    return _BuildTask(self._to_build.popleft())
                if self._ready:
                    return self._ready.popleft()
                if not self._building:
                    return None
                self._changed.wait()
        return None

    def _build(self, row: PlannedRow) -> None:
        begun = time.monotonic()
        missing: list[SuiteTest] = []
        try:
            with _share_of_cores(self._workers if self._ready else 1):
                built = self._work.build(row)
            missing = [test for test in row.tests if not self._work.keep(row, built, test)]
        except BuildFailed as error:
            built = BuiltRow(None, problem=error.one_line())
        with self._changed:
            self._building = False
            self._built[row.build.folder] = built
            self._watcher.built(row, built, time.monotonic() - begun)
            if built.qemu and len(missing) < len(row.tests):
                self._watcher.kept(row, len(row.tests) - len(missing))
            if not self._children.stopped:
                self._ready.extend(_CellTask(row, built, test) for test in missing)
            self._changed.notify_all()

    def _cell(self, task: _CellTask) -> None:
        judged = self._work.run(task.row, task.built, task.test)
        if judged is not None:
            with self._changed:
                self._watcher.ran(task.row, task.test, judged)


@contextlib.contextmanager
def _share_of_cores(workers: int) -> Iterator[None]:
    """Keep this thread, and what it starts, to its share of the cores that it may use."""
    allowed = os.sched_getaffinity(0)
    share = max(1, len(allowed) // workers)
    try:
        os.sched_setaffinity(0, set(sorted(allowed)[-share:]))
        yield
    finally:
        os.sched_setaffinity(0, allowed)
