"""The pool works a plan off whole, whatever the order in which builds and cells end; and stops when told to."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprlib.campaign.mutation.matrix import Build
from cprlib.campaign.mutation.outcome import CellOutcome, JudgedCell
from cprlib.campaign.mutation.pool import BuiltRow, PlannedRow, Pool
from cprlib.campaign.mutation.tests import SuiteTest
from cprlib.campaign.workers import Children
from cprlib.errors import BuildFailed, EnvironmentFailure
from cprlib.process import spawn
from cprlib.qemu.binary import QemuBinary
from tests.unit.mutation.samples import judged, variant

TESTS = tuple(SuiteTest(name, f"/x/test_x.py:X.{name}") for name in ("test-a", "test-b", "test-c"))


class FakeWork:
    """Builds and runs nothing, and notes who was asked for what."""

    def __init__(self, broken: frozenset[str] = frozenset(), kept: frozenset[tuple[str, str]] = frozenset()) -> None:
        self.broken = broken
        self.kept = kept
        self.ran: list[tuple[str, str]] = []
        self.builds_at_once = self.most_builds = 0
        self.lock = threading.Lock()

    def build(self, row: PlannedRow) -> BuiltRow:
        with self.lock:
            self.builds_at_once += 1
            self.most_builds = max(self.most_builds, self.builds_at_once)
        time.sleep(0.001)
        with self.lock:
            self.builds_at_once -= 1
        if row.build.folder in self.broken:
            raise BuildFailed("apply 0001", "hunk 1 FAILED")
        return BuiltRow(QemuBinary(Path("/qemu"), None), "ab")

    def keep(self, row: PlannedRow, built: BuiltRow, test: SuiteTest) -> bool:
        assert built.qemu
        return (row.build.folder, test.id) in self.kept

    def run(self, row: PlannedRow, built: BuiltRow, test: SuiteTest) -> JudgedCell | None:
        assert built.qemu
        with self.lock:
            self.ran.append((row.build.folder, test.id))
        return judged(CellOutcome.PASSED)


class FakeWatcher:
    def __init__(self) -> None:
        self.done = 0

    def built(self, row: PlannedRow, built: BuiltRow, seconds: float) -> None:
        del seconds
        self.done += 0 if built.qemu else len(row.tests)

    def kept(self, row: PlannedRow, count: int) -> None:
        del row
        self.done += count

    def ran(self, row: PlannedRow, test: SuiteTest, judged: JudgedCell) -> None:
        del row, test, judged
        self.done += 1


def plan(count: int) -> list[PlannedRow]:
    return [
        PlannedRow(Build(), TESTS),
        *(PlannedRow(Build(variant(f"v{number}")), TESTS[:2]) for number in range(count)),
    ]


names = st.sampled_from([row.build.folder for row in plan(5)])


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(0, 5),
    workers=st.integers(1, 4),
    broken=st.frozensets(names),
    kept=st.frozensets(st.tuples(names, st.sampled_from(["test-a", "test-b"]))),
)
def test_every_cell_is_run_once_or_was_kept_or_has_no_build(
    count: int, workers: int, broken: frozenset[str], kept: frozenset[tuple[str, str]]
) -> None:
    rows, work, watcher = plan(count), FakeWork(broken, kept), FakeWatcher()
    built = Pool(rows, work, watcher, workers, Children()).run()
    wanted = {(row.build.folder, test.id) for row in rows for test in row.tests if row.build.folder not in broken}
    assert sorted(work.ran) == sorted(wanted - kept)
    assert watcher.done == sum(len(row.tests) for row in rows)
    assert {name for name, row in built.items() if row.qemu is None} == broken & {row.build.folder for row in rows}
    assert work.most_builds == 1


def test_error_that_all_would_meet_ends_the_pool() -> None:
    class NoSpace(FakeWork):
        def run(self, row: PlannedRow, built: BuiltRow, test: SuiteTest) -> JudgedCell | None:
            super().run(row, built, test)
            raise EnvironmentFailure("store a cell", "No space left on device")

    work = NoSpace()
    with pytest.raises(EnvironmentFailure, match="No space left"):
        Pool(plan(5), work, FakeWatcher(), 2, Children()).run()
    assert len(work.ran) <= 2


def test_interruption_ends_what_runs_and_starts_nothing_more() -> None:
    children = Children()
    running: list[subprocess.Popen[str]] = []

    class Slow(FakeWork):
        def run(self, row: PlannedRow, built: BuiltRow, test: SuiteTest) -> JudgedCell | None:
            super().run(row, built, test)
            with spawn(["sleep", "60"], purpose="sleep") as child:
                running.append(child)
                children.add(child)
                os.kill(os.getpid(), signal.SIGINT)
                child.wait()
            return None

    work = Slow()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Pool(plan(3), work, FakeWatcher(), 1, children).run()
    assert time.monotonic() - begun < 20
    assert len(work.ran) == 1
    assert running[0].returncode == -9


def test_child_that_comes_after_the_stop_is_ended_too() -> None:
    children = Children()
    children.stop()
    with spawn(["sleep", "60"], purpose="sleep") as child:
        children.add(child)
        assert child.returncode == -9
