"""Every planned test runs once, in whatever order builds and tests end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cprlib.campaign.job import SuiteTest
from cprlib.campaign.mutation.plan import Build, PlannedBuild
from cprlib.campaign.mutation.run import BuiltQemu, MutationJobs, MutationProgress, MutationStrategy
from cprlib.campaign.outcome import JobOutcome, JudgedJob
from cprlib.campaign.pool import Children, Pool
from cprlib.campaign.progress import ProgressLines
from cprlib.errors import BuildFailed
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

    def build(self, build: Build) -> BuiltQemu:
        with self.lock:
            self.builds_at_once += 1
            self.most_builds = max(self.most_builds, self.builds_at_once)
        time.sleep(0.001)
        with self.lock:
            self.builds_at_once -= 1
        if build.folder in self.broken:
            raise BuildFailed("apply 0001", "hunk 1 FAILED")
        return BuiltQemu(QemuBinary(Path("/qemu"), None), "ab")

    def is_stored(self, build: Build, built: BuiltQemu, test: SuiteTest) -> bool:
        assert built.qemu
        return (build.folder, test.id) in self.stored

    def run(self, build: Build, built: BuiltQemu, test: SuiteTest) -> JudgedJob | None:
        assert built.qemu
        with self.lock:
            self.ran.append((build.folder, test.id))
        return judged(JobOutcome.PASSED)


def run(plan: list[PlannedBuild], work: FakeWork, workers: int, children: Children) -> MutationStrategy:
    """Run a plan in a pool; the lines of progress are thrown away."""
    progress = MutationProgress(ProgressLines(lambda _: None), plan)
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
