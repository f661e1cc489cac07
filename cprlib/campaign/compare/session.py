"""Chains of A and B in turn: each round runs every case on both, side by side where there are cores, ordered by lot.

Round by round, so that a machine that becomes slower does so for both; by lot, so that nothing which comes back at
regular times falls on one of them. The order is recorded.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.campaign.compare.chain import Chain, chain_of
from cprlib.campaign.compare.kept import KeptRound
from cprlib.campaign.job import JobRunner, SuiteTest, compress
from cprlib.campaign.pool import Children
from cprlib.campaign.store import store_folder
from cprlib.report.environment import Environment
from cprlib.report.pipeline import judge_results
from cprlib.verdict.policy import Policy

CELLS = "cells"


@dataclass(frozen=True, slots=True)
class Arm:
    """One of those that are compared.

    :param name: names its folder: ``a``, ``b``, ``a-again``, ``a-to-b``.
    :param parameters: Avocado's, with its QEMU.
    :param tests: that it runs.
    """

    name: str
    parameters: Mapping[str, str]
    tests: tuple[SuiteTest, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    :param number: from 1.
    :param order: arm and case as they were started.
    :param chains: of each arm, one for each of its tests, in their order.
    :param seconds: that it took; :param started_ns: CLOCK_REALTIME.
    """

    number: int
    order: tuple[tuple[str, str], ...]
    chains: Mapping[str, tuple[Chain, ...]]
    seconds: float
    started_ns: int


@dataclass(frozen=True, slots=True)
class Session:
    """What all rounds have in common.

    :param folder: of the comparison.
    :param jobs: how jobs are run; :param partial: for jobs that run.
    :param workers: chains at once.
    :param seed: of the lots that are drawn, anew for each round.
    :param children: ended when a round is interrupted.
    :param environment: of the machine, told once.
    """

    folder: Path
    partial: Path
    jobs: JobRunner
    policy: Policy
    workers: int
    seed: int
    children: Children
    environment: Environment

    def run(self, number: int, arms: Sequence[Arm]) -> Round:
        """Run a round.

        :raises EnvironmentFailure: a folder cannot be written, or there is no Avocado.
        """
        begun, begun_ns = time.monotonic(), time.time_ns()
        order = self._order(number, arms)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="compare") as pool:
            try:
                waiting = {(arm.name, test.id): pool.submit(self._cell, number, arm, test) for arm, test in order}
                done = {key: future.result() for key, future in waiting.items()}
            except BaseException:
                self.children.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        chains = {arm.name: tuple(done[arm.name, test.id] for test in arm.tests) for arm in arms}
        names = tuple((arm.name, test.id) for arm, test in order)
        return Round(number, names, chains, round(time.monotonic() - begun, 3), begun_ns)

    def _order(self, number: int, arms: Sequence[Arm]) -> list[tuple[Arm, SuiteTest]]:
        """Case by case, so that A and B of one case run side by side; which comes first is drawn."""
        lot = random.Random(f"{self.seed}, round {number}")  # noqa: S311
        tests = list({test.id: test for arm in arms for test in arm.tests}.values())
        lot.shuffle(tests)
        order = []
        for test in tests:
            there = [arm for arm in arms if test in arm.tests]
            lot.shuffle(there)
            order += [(arm, test) for arm in there]
        return order

    def _cell(self, number: int, arm: Arm, test: SuiteTest) -> Chain:
        place = f"{arm.name}/round-{number}"
        job = self.jobs.run(self.partial / place / test.id, test.reference, arm.parameters)
        compress(job.folder)
        store_folder(job.folder, self.folder / CELLS / place / test.id)
        return self._read(number, arm, test)

    def read(self, kept: KeptRound, arms: Sequence[Arm]) -> Round:
        """A round that was run before, from its cells."""
        chains = {arm.name: tuple(self._read(kept.number, arm, test) for test in arm.tests) for arm in arms}
        order = tuple((arm, case) for arm, case in kept.order)
        return Round(kept.number, order, chains, kept.seconds, kept.started_ns)

    def _read(self, number: int, arm: Arm, test: SuiteTest) -> Chain:
        final = self.folder / CELLS / f"{arm.name}/round-{number}" / test.id
        judged = judge_results(final, self.policy, environment=self.environment).cases
        if not judged:
            return Chain(test.id, 0, {}, {}, {}, doubts=("avocado-test: it left no case",), folder=self._link(final))
        case = max(judged, key=lambda item: item.evidence.updates or 0)
        chain = chain_of(case, self._link(final / "cases" / case.evidence.id))
        return replace(chain, case=test.id)  # a test that died has left no case to name

    def _link(self, folder: Path) -> str:
        return str(folder.relative_to(self.folder))


def last_figures(done: Round, say: Callable[[str], None], elapsed: float, budget: float) -> None:
    """A line of progress: what the round's chains showed, and how much of the budget is used up."""
    told = []
    for name, chains in done.chains.items():
        figures = [chain.middle("interruption-return") or chain.middle("stop-to-resume") for chain in chains]
        lost = sum(chain.packets.get("lost", 0) for chain in chains)
        shown = "/".join("-" if figure is None else f"{figure:.0f}" for figure in figures)
        bad = " refused" if any(chain.failures for chain in chains) else ""
        unsure = " not believed" if any(not chain.believed for chain in chains) else ""
        told.append(f"{name} {shown} ms, {lost} lost{bad}{unsure}")
    say(f"round {done.number}: {'; '.join(told)}; {done.seconds:.0f} s; {elapsed:.0f} of {budget:.0f} s used")
