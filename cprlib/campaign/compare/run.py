"""Run a comparison: rounds of A and B in turn until everything is decided or the budget is used up.

A round runs every case on both sides, side by side where there are cores, in random order. A machine that slows down
does so for both, and nothing periodic always hits the same side. The order is recorded.
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.build.progress import Progress
from cprlib.campaign.compare.comparison import Comparison, Round, Side, make_comparison
from cprlib.campaign.compare.decide import decide, refusals, smallest_p
from cprlib.campaign.compare.decision import Change, Sample
from cprlib.campaign.compare.guest import DURATIONS, GuestResult
from cprlib.campaign.compare.session import (
    A_CONTROL,
    A_TO_B,
    STORE,
    A,
    Arm,
    B,
    CompareRequest,
    CompareState,
    GuestJobs,
    make_arms,
    read_state,
)
from cprlib.campaign.compare.statistics import Analysis, next_analysis
from cprlib.campaign.job import SuiteTest
from cprlib.campaign.pool import Task
from cprlib.campaign.progress import ProgressLines
from cprlib.campaign.session import open_session
from cprlib.errors import UsageError
from cprlib.qemu.binary import QemuBinary, probe
from cprlib.report.environment import Environment
from cprlib.report.formatting import utc
from cprlib.verdict.policy import Policy
from cprlib.verdict.policy_file import load_policy

A_TO_B_ROUNDS = 2  # an update from A to B has its own guest: two of them say whether it works
HOPELESS_ROUNDS = 2  # without a valid guest; then further rounds are useless

ArmGuests = dict[str, tuple[GuestResult, ...]]
"""The guests of one round, by arm, in the order of its tests."""


class CompareStrategy:
    """Round after round; see :class:`cprlib.campaign.pool.Strategy`. After each one: analyse, store, decide to stop.

    :param state: so far.
    :param clock: seconds, for tests.
    """

    def __init__(
        self,
        folder: Path,
        request: CompareRequest,
        arms: Sequence[Arm],
        jobs: GuestJobs,
        state: CompareState,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._request = request
        self._arms = arms
        self._jobs = jobs
        self._say = say
        self._clock = clock
        self._budget_s = 60 * request.budget
        self._begun = clock() - state.elapsed_s
        self._to_run: collections.deque[tuple[Arm, SuiteTest]] = collections.deque()
        self._missing = 0  # guests of this round
        self._order: list[tuple[Arm, SuiteTest]] = []
        self._round_begun, self._round_begun_ns = 0.0, 0
        self.state = state
        self.rounds = [self._read(item.number) for item in state.rounds]

    def next(self, running: int) -> Task | None:
        if not self._to_run:
            if running or self.state.ended:
                return None
            self._begin_round()
        arm, test = self._to_run.popleft()
        number = len(self.rounds) + 1
        return Task(lambda: self._jobs.run(number, arm, test), self._add)

    def _arms_of(self, number: int) -> list[Arm]:
        return [arm for arm in self._arms if arm.name != A_TO_B or number <= A_TO_B_ROUNDS]

    def _begin_round(self) -> None:
        number = len(self.rounds) + 1
        self._order = random_order(self._request.seed, number, self._arms_of(number))
        self._to_run.extend(self._order)
        self._missing = len(self._order)
        self._round_begun, self._round_begun_ns = self._clock(), time.time_ns()

    def _add(self, stored: bool) -> None:
        self._missing -= stored
        if not self._missing:
            self._end_round()

    def _end_round(self) -> None:
        number = len(self.rounds) + 1
        order = tuple((arm.name, test.id) for arm, test in self._order)
        seconds = round(self._clock() - self._round_begun, 3)
        self.rounds.append(self._read(number))
        elapsed = self._clock() - self._begun
        used = f"{seconds:.0f} s; {elapsed:.0f} of {self._budget_s:.0f} s used"
        self._say(f"round {number}: {_figures(self.rounds[-1])}; {used}")
        samples = samples_of(self.rounds, B)
        over = elapsed + seconds > self._budget_s
        over = over or (not self._request.whole and (_refused(self.rounds, samples) or _hopeless(self.rounds)))
        analyses = self.state.analyses
        spent = sum(share for _, share in analyses)
        if analysis := next_analysis(spent, elapsed / self._budget_s, smallest_p(samples), last=over):
            analyses = (*analyses, (number, analysis.share))
            decision = decide(samples, analysis, self._request.effect)
            self._say(f"interim analysis after round {number}: {decision.words}")
            over = over or (not self._request.whole and decision.change != Change.UNDECIDED)
        self.state = replace(
            self.state,
            rounds=(*self.state.rounds, Round(number, order, seconds, self._round_begun_ns)),
            analyses=analyses,
            elapsed_s=round(elapsed, 3),
            ended=over,
        )
        self.state.write(self._folder)

    def _read(self, number: int) -> ArmGuests:
        return {
            arm.name: tuple(self._jobs.read(number, arm, test) for test in arm.tests) for arm in self._arms_of(number)
        }


def random_order(seed: int, number: int, arms: Sequence[Arm]) -> list[tuple[Arm, SuiteTest]]:
    """Jobs of a round case by case, so that A and B of a case run side by side; cases and arms in random order."""
    generator = random.Random(f"{seed}, round {number}")  # noqa: S311
    tests = list({test.id: test for arm in arms for test in arm.tests}.values())
    generator.shuffle(tests)
    order = []
    for test in tests:
        with_test = [arm for arm in arms if test in arm.tests]
        generator.shuffle(with_test)
        order += [(arm, test) for arm in with_test]
    return order


def samples_of(rounds: Sequence[ArmGuests], other: str) -> tuple[Sample, ...]:
    """Guests of A and of another arm, case by case."""
    if not rounds or other not in rounds[0]:
        return ()
    samples = []
    for place, first in enumerate(rounds[0][A]):
        a, b = (tuple(item[name][place] for item in rounds) for name in (A, other))
        samples.append(Sample(first.case, a, b, True))
    return tuple(samples)


def _refused(rounds: Sequence[ArmGuests], samples: Sequence[Sample]) -> bool:
    """Whether the policy refuses B and not A: further rounds would not change that."""
    a_to_b = any(guest.failures for item in rounds for guest in item.get(A_TO_B, ()))
    return a_to_b or any(not item.a_guests for sample in samples for item in refusals(sample))


def _hopeless(rounds: Sequence[ArmGuests]) -> bool:
    sides = [[guest for item in rounds for guest in item[name]] for name in (A, B)]
    return len(rounds) >= HOPELESS_ROUNDS and any(not any(guest.valid for guest in guests) for guests in sides)


def _figures(done: ArmGuests) -> str:
    """The median of each guest, in the first metric that a guest has."""
    metrics = [metric for metric in DURATIONS if metric.name in ("interruption-return", "stop-to-resume")]
    every = [guest for guests in done.values() for guest in guests]
    shown_metric = next(
        (item for item in metrics if any(guest.durations.get(item.name) for guest in every)), metrics[0]
    )
    arms = []
    for name, guests in done.items():
        figures = [guest.median_ms(shown_metric.name) for guest in guests]
        lost = [guest.packets["lost"] for guest in guests if "lost" in guest.packets]
        packets = f", {sum(lost)} lost" if lost else ""
        shown = "/".join("-" if figure is None else f"{figure:.0f}" for figure in figures)
        refused = ", refused" if any(guest.failures for guest in guests) else ""
        discarded = ", discarded" if any(not guest.valid for guest in guests) else ""
        arms.append(f"{name} {shown} ms{packets}{refused}{discarded}")
    return f"{shown_metric.label}: {'; '.join(arms)}"


def compare(
    folder: Path,
    request: CompareRequest,
    tests: Sequence[SuiteTest],
    *,
    parallel: int | None,
    progress: Progress,
    say: Callable[[str], None],
) -> Comparison:
    """Run rounds until everything is decided or the budget is used up.

    :param folder: of the session.
    :param tests: of the suite.
    :param parallel, progress: as of :func:`cprlib.campaign.session.open_session`.
    :param say: takes lines of progress.
    :raises CprlibError: an error that ends the comparison; rounds so far stay.
    """
    policy = load_policy(request.policy)
    with open_session(STORE, folder, request.engine, parallel, progress, request.base, request.a) as session:
        state = read_state(folder)
        sides = (_side(session.assets.qemu), _side(request.b))
        qemus = (sides[0].sha256, sides[1].sha256)
        if state.qemus and state.qemus != qemus:
            raise UsageError(f"resume {folder}", "A or B is another binary than before", "start a new comparison")
        arms = make_arms(session.assets, request, tests)
        inputs = tuple(session.key(test, arm.parameters) for arm in arms for test in arm.tests)
        if state.inputs and state.inputs != inputs:
            happened = "cprlib, a test, the guest or the lab's kernel is another one than before"
            raise UsageError(f"resume {folder}", happened, "start a new comparison")
        jobs = GuestJobs(session, policy)
        strategy = CompareStrategy(
            folder, request, arms, jobs, replace(state, qemus=qemus, inputs=inputs), ProgressLines(say).line
        )
        session.run_all(strategy)
        environment = session.environment(arms[0].parameters.get("accelerator", ""))
        return conclude(request, strategy, sides, policy, environment)


def conclude(
    request: CompareRequest,
    strategy: CompareStrategy,
    sides: tuple[Side, Side],
    policy: Policy,
    environment: Environment,
) -> Comparison:
    """The comparison at the end of its last round.

    :param sides: A and B.
    """
    rounds, (*_, (_, share)) = strategy.rounds, strategy.state.analyses  # the last round has one
    made = make_comparison(
        "session",
        *sides,
        samples_of(rounds, B),
        request.effect,
        policy,
        environment,
        analysis=Analysis(share),
        control=samples_of(rounds, A_CONTROL),
        a_to_b=[guest for item in rounds for guest in item.get(A_TO_B, ())],
        command=request.command,
    )
    return replace(
        made,
        rounds=strategy.state.rounds,
        interim_analyses=tuple(number for number, _ in strategy.state.analyses),
        budget_s=60 * request.budget,
        seed=request.seed,
        parameters=request.used_parameters,
        started=utc(request.started_ns or None),
        finished=utc(time.time_ns()),
    )


def _side(qemu: QemuBinary) -> Side:
    facts = probe(qemu)
    return Side(facts.path, facts.version, facts.sha256)
