"""Every planned test runs once, in whatever order builds and tests end; an error or an interruption stops all."""

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

from cprlib.campaign.job import SuiteTest
from cprlib.campaign.mutation.plan import Build, PlannedBuild
from cprlib.campaign.mutation.run import BuiltQemu, MutationJobs, MutationProgress, MutationStrategy
from cprlib.campaign.outcome import JobOutcome, JudgedJob
from cprlib.campaign.page import ProgressLines
from cprlib.campaign.pool import Children, Pool
from cprlib.errors import BuildFailed, EnvironmentFailure
from cprlib.process import spawn
from cprlib.qemu.binary import QemuBinary
from tests.unit.mutation.samples import judged, mutant

TESTS = tuple(SuiteTest(name, f"/x/test_x.py:X.{name}") for name in ("test-a", "test-b", "test-c"))


class FakeWork:
    """Builds and runs nothing, and notes who was asked for what."""

    def __init__(self, broken: frozenset[str] = frozenset(), stored: frozenset[tuple[str, str]] = frozenset()) -> None:
        self.broken = broken
        self.stored = stored
        self.ran: list[tuple[str, str]] = []
        self.builds_at_once = self.most_builds = 0
        self.lock = threading.Lock()

    def build(self, planned: PlannedBuild) -> BuiltQemu:
        with self.lock:
            self.builds_at_once += 1
            self.most_builds = max(self.most_builds, self.builds_at_once)
        time.sleep(0.001)
        with self.lock:
            self.builds_at_once -= 1
        if planned.build.folder in self.broken:
            raise BuildFailed("apply 0001", "hunk 1 FAILED")
        return BuiltQemu(QemuBinary(Path("/qemu"), None), "ab")

    def is_stored(self, planned: PlannedBuild, built: BuiltQemu, test: SuiteTest) -> bool:
        assert built.qemu
        return (planned.build.folder, test.id) in self.stored

    def run(self, planned: PlannedBuild, built: BuiltQemu, test: SuiteTest) -> JudgedJob | None:
        assert built.qemu
        with self.lock:
            self.ran.append((planned.build.folder, test.id))
        return judged(JobOutcome.PASSED)


def run(plan: list[PlannedBuild], work: FakeWork, workers: int, children: Children) -> MutationStrategy:
    """Run a plan in a pool; the lines of progress are thrown away."""
    progress = MutationProgress(ProgressLines(lambda _: None), plan, workers)
    jobs: MutationJobs = work  # type: ignore[assignment]
    strategy = MutationStrategy(plan, jobs, progress, workers)
    Pool(strategy, workers, children).run()
    assert progress.done == sum(len(planned.tests) for planned in plan)
    return strategy


def make_plan(count: int) -> list[PlannedBuild]:
    return [
        PlannedBuild(Build(), TESTS),
        *(PlannedBuild(Build(mutant(f"v{number}")), TESTS[:2]) for number in range(count)),
    ]


names = st.sampled_from([row.build.folder for row in make_plan(5)])


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(0, 5),
    workers=st.integers(1, 4),
    broken=st.frozensets(names),
    kept=st.frozensets(st.tuples(names, st.sampled_from(["test-a", "test-b"]))),
)
def test_every_test_runs_once_or_has_a_stored_result_or_no_build(
    count: int, workers: int, broken: frozenset[str], kept: frozenset[tuple[str, str]]
) -> None:
    plan, work = make_plan(count), FakeWork(broken, kept)
    built = run(plan, work, workers, Children()).built
    wanted = {(item.build.folder, test.id) for item in plan for test in item.tests if item.build.folder not in broken}
    assert sorted(work.ran) == sorted(wanted - kept)
    assert {name for name, item in built.items() if item.qemu is None} == broken & {item.build.folder for item in plan}
    assert work.most_builds == 1


def test_error_that_all_would_meet_ends_the_pool() -> None:
    class NoSpace(FakeWork):
        def run(self, planned: PlannedBuild, built: BuiltQemu, test: SuiteTest) -> JudgedJob | None:
            super().run(planned, built, test)
            raise EnvironmentFailure("store a result", "No space left on device")

    work = NoSpace()
    with pytest.raises(EnvironmentFailure, match="No space left"):
        run(make_plan(5), work, 2, Children())
    assert len(work.ran) <= 2


def test_interruption_ends_what_runs_and_starts_nothing_more() -> None:
    children = Children()
    running: list[subprocess.Popen[str]] = []

    class Slow(FakeWork):
        def run(self, planned: PlannedBuild, built: BuiltQemu, test: SuiteTest) -> JudgedJob | None:
            super().run(planned, built, test)
            with spawn(["sleep", "60"], purpose="sleep") as child:
                running.append(child)
                children.add(child)
                os.kill(os.getpid(), signal.SIGINT)
                child.wait()
            return None

    work = Slow()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(make_plan(3), work, 1, children)
    assert time.monotonic() - begun < 20
    assert len(work.ran) == 1
    assert running[0].returncode == -9


def test_child_that_comes_after_the_stop_is_ended_too() -> None:
    children = Children()
    children.stop()
    with spawn(["sleep", "60"], purpose="sleep") as child:
        children.add(child)
        assert child.returncode == -9
