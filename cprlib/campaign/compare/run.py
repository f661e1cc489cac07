"""Run a comparison: rounds of A and B in turn until everything is decided or the budget is used up.

A round runs every case on both sides, side by side where there are cores, in random order. A machine that slows down
does so for both, and nothing periodic always hits the same side. The order is recorded. A session's folder
(:mod:`cprlib.campaign.store`) also has::

    state.json            the rounds so far (:class:`CompareState`)
    results/a/round-1/<test>/      a job's folder (:mod:`cprlib.campaign.job`); arms: a, b, a-again, a-to-b
    compare.json compare.html compare.txt
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib import files
from cprlib.build.assets import Assets, build_assets
from cprlib.build.progress import Progress
from cprlib.campaign.compare.comparison import Comparison, Round, Side
from cprlib.campaign.compare.decide import MIN_EFFECT, MIN_EFFECT_MS, Change, Effect, Sample, decide, smallest_p
from cprlib.campaign.compare.guest import GuestResult, comparison_policy, guest_result
from cprlib.campaign.compare.statistics import SINGLE_ANALYSIS, AlphaSpending, Analysis
from cprlib.campaign.job import JobRunner, SuiteTest, compress, find_tests
from cprlib.campaign.page import ProgressLines
from cprlib.campaign.pool import Children, Pool, Task, worker_count
from cprlib.campaign.store import STORE_VERSION, Store, store_folder
from cprlib.codec import BadValue, dump_json, load_json
from cprlib.errors import UsageError
from cprlib.lab.backend import asset_parameters
from cprlib.qemu.binary import QemuBinary, file_digest, probe
from cprlib.report.environment import Environment, describe_environment
from cprlib.report.pipeline import judge_results
from cprlib.verdict.policy import Policy
from cprlib.verdict.policy_file import load_policy

STATE_FILE = "state.json"
RESULTS = "results"
A, B, AGAIN, A_TO_B = "a", "b", "a-again", "a-to-b"
A_TO_B_ROUNDS = 2  # an update from A to B has its own guest: two of them say whether it works
HOPELESS_ROUNDS = 2  # without a valid guest; then further rounds are useless
UPDATES_CASE, A_TO_B_CASE = "chain-of-5-updates-loses-nothing", "update-to-another-base-loses-nothing"
DEFAULTS = {"chain": "4", "rate": "500"}
"""Few updates of many guests, because guests differ more than updates; the rate leaves a slow machine some room."""


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What a comparison covers; paths are absolute.

    :param a: None for the project's own build on :attr:`base`.
    :param budget: minutes for all rounds.
    :param min_effect: a part of A.
    :param noise: also run A against A.
    :param a_to_b: also update from A to B.
    :param whole: use the whole budget, also when everything is decided.
    :param engine: of the lab; None to run natively.
    :param seed: of the random order.
    :param tests: ids of cases. :param parameters: ``NAME=VALUE``.
    """

    b: str
    a: str | None = None
    a_firmware: str | None = None
    b_firmware: str | None = None
    base: str = ""
    budget: float = 10.0
    min_effect: float = MIN_EFFECT
    noise: bool = False
    a_to_b: bool = True
    whole: bool = False
    policy: str = "default"
    engine: str | None = None
    seed: int = 0
    tests: tuple[str, ...] = (UPDATES_CASE,)
    parameters: Mapping[str, str] | None = None
    command: str = ""
    started_ns: int = 0
    version: int = STORE_VERSION

    @property
    def effect(self) -> Effect:
        """The smallest difference that matters."""
        return Effect(self.min_effect, MIN_EFFECT_MS)


STORE = Store("compare", CompareRequest)


@dataclass(frozen=True, slots=True)
class StoredRound:
    """A round without its guests, which are read from its results.

    :param order: arm and case in the order of their start.
    """

    number: int
    order: tuple[tuple[str, str], ...]
    seconds: float
    started_ns: int


@dataclass(frozen=True, slots=True)
class CompareState:
    """The progress of a comparison. The alpha that is spent stays spent when it is resumed.

    :param qemus: sha256 of A and B.
    :param analyses: rounds after which there was an analysis. :param alpha_spent: share of alpha that they used.
    :param elapsed_s: of the budget.
    :param ended: no round is left to run.
    """

    qemus: tuple[str, ...] = ()
    rounds: tuple[StoredRound, ...] = ()
    analyses: tuple[int, ...] = ()
    alpha_spent: float = 0.0
    elapsed_s: float = 0.0
    ended: bool = False

    def write(self, folder: Path) -> None:
        """Write ``state.json``.

        :raises EnvironmentFailure: the folder cannot be written.
        """
        files.write_text(folder / STATE_FILE, dump_json(self), mode=0o600)


def read_state(folder: Path) -> CompareState:
    """The progress so far; nothing before the end of the first round.

    :raises UsageError: the file is broken, or the comparison has ended.
    """
    path = folder / STATE_FILE
    try:
        state = load_json(CompareState, path.read_bytes()) if path.exists() else CompareState()
    except (OSError, BadValue) as error:
        raise UsageError(f"read {path}", str(error), "start cprlib compare without --resume") from error
    if state.ended:
        happened = "it has ended: its budget is used up, or everything is decided"
        raise UsageError(f"resume {folder}", happened, "start another one")
    return state


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the things that are compared.

    :param name: of its folder: ``a``, ``b``, ``a-again``, ``a-to-b``.
    :param parameters: Avocado's, with its QEMU.
    """

    name: str
    parameters: Mapping[str, str]
    tests: tuple[SuiteTest, ...]


def make_arms(assets: Assets, b: QemuBinary, request: CompareRequest, tests: Sequence[SuiteTest]) -> tuple[Arm, ...]:
    """The arms of a comparison; equal QEMUs have no update from A to B.

    :param assets: with A.
    :param tests: of the suite.
    :raises UsageError: the suite lacks a case.
    """
    measured = find_measured(request.tests, tests)
    used = {**DEFAULTS, **(request.parameters or {})}
    given = [
        {**asset_parameters(assets, request.engine, request.policy, qemu=qemu), **used} for qemu in (assets.qemu, b)
    ]
    arms = [Arm(A, given[0], measured), Arm(B, given[1], measured)]
    if request.noise:
        arms.append(Arm(AGAIN, given[0], measured))
    if request.a_to_b and file_digest(assets.qemu.path) != file_digest(b.path):
        arms.append(Arm(A_TO_B, given[0] | b.parameters("target_"), find_measured((A_TO_B_CASE,), tests)))
    return tuple(arms)


def find_measured(names: Sequence[str], tests: Sequence[SuiteTest]) -> tuple[SuiteTest, ...]:
    """The cases to measure.

    :raises UsageError: the suite lacks one.
    """
    return find_tests(names, tests, f"measure {', '.join(names)}", "docs/tests.md lists them, with dashes")


@dataclass(frozen=True, slots=True)
class GuestJobs:
    """Runs guests and reads them back; called on the pool's threads.

    :param folder: of the session. :param partial: for jobs that run.
    :param environment: of the machine.
    """

    folder: Path
    partial: Path
    runner: JobRunner
    policy: Policy
    children: Children
    environment: Environment

    def run(self, number: int, arm: Arm, test: SuiteTest) -> GuestResult | None:
        """Run and store one guest of a round; None when it was ended from outside."""
        place = f"{arm.name}/round-{number}/{test.id}"
        job = self.runner.run(self.partial / place, test.reference, arm.parameters)
        if self.children.stopped:
            return None
        compress(job.folder)
        store_folder(job.folder, self.folder / RESULTS / place)
        return self.read(number, arm, test)

    def read(self, number: int, arm: Arm, test: SuiteTest) -> GuestResult:
        """A stored guest."""
        place = self.folder / RESULTS / arm.name / f"round-{number}" / test.id
        judged = judge_results(place, comparison_policy(self.policy), environment=self.environment).cases
        if not judged:
            problem = "avocado-test: it left no case"
            return GuestResult(test.id, 0, {}, {}, {}, problems=(problem,), folder=self._link(place))
        case = max(judged, key=lambda item: item.evidence.updates or 0)
        guest = guest_result(case, self._link(place / "cases" / case.evidence.id))
        return replace(guest, case=test.id)  # a test that died has no case with its own name

    def _link(self, folder: Path) -> str:
        return str(folder.relative_to(self.folder))


class CompareStrategy:
    """Round after round; see :class:`cprlib.campaign.pool.Strategy`. After each one: analyse, store, decide to stop.

    :param state: so far. :param rounds: of it.
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
        self._alpha = AlphaSpending(state.alpha_spent)
        self._to_run: collections.deque[tuple[Arm, SuiteTest]] = collections.deque()
        self._guests: dict[tuple[str, str], GuestResult] = {}
        self._order: list[tuple[Arm, SuiteTest]] = []
        self._round_begun, self._round_begun_ns = 0.0, 0
        self.state = state
        self.rounds = [self._stored(item) for item in state.rounds]
        self.analysis: Analysis | None = None

    def next(self, running: int) -> Task | None:
        """See :meth:`cprlib.campaign.pool.Strategy.next`."""
        if not self._to_run:
            if running or self.state.ended:
                return None
            self._begin_round()
        arm, test = self._to_run.popleft()
        number = len(self.rounds) + 1
        return Task(lambda: self._jobs.run(number, arm, test), lambda guest: self._add(arm, test, guest))

    def _arms_of(self, number: int) -> list[Arm]:
        return [arm for arm in self._arms if arm.name != A_TO_B or number <= A_TO_B_ROUNDS]

    def _begin_round(self) -> None:
        number = len(self.rounds) + 1
        self._order = random_order(self._request.seed, number, self._arms_of(number))
        self._to_run.extend(self._order)
        self._guests = {}
        self._round_begun, self._round_begun_ns = self._clock(), time.time_ns()

    def _add(self, arm: Arm, test: SuiteTest, guest: GuestResult | None) -> None:
        if guest is not None:
            self._guests[arm.name, test.id] = guest
            if len(self._guests) == len(self._order):
                self._end_round()

    def _end_round(self) -> None:
        number = len(self.rounds) + 1
        guests = {
            arm.name: tuple(self._guests[arm.name, test.id] for test in arm.tests) for arm in self._arms_of(number)
        }
        order = tuple((arm.name, test.id) for arm, test in self._order)
        seconds = round(self._clock() - self._round_begun, 3)
        done = Round(number, order, guests, seconds, self._round_begun_ns)
        self.rounds.append(done)
        elapsed = self._clock() - self._begun
        self._say(_round_line(done, elapsed, self._budget_s))
        samples = samples_of(self.rounds, B)
        over = elapsed + seconds > self._budget_s
        over = over or (not self._request.whole and (_refused(self.rounds, samples) or _hopeless(self.rounds)))
        analysis = self._alpha.next(elapsed / self._budget_s, smallest_p(samples), last=over)
        analyses = self.state.analyses
        if analysis is not None:
            self.analysis, analyses = analysis, (*analyses, number)
            decision = decide(samples, analysis, self._request.effect)
            self._say(f"interim analysis after round {number}: {decision.words}")
            over = over or (not self._request.whole and decision.change != Change.UNDECIDED)
        self.state = replace(
            self.state,
            rounds=(*self.state.rounds, StoredRound(number, order, seconds, done.started_ns)),
            analyses=analyses,
            alpha_spent=self._alpha.spent,
            elapsed_s=round(elapsed, 3),
            ended=over,
        )
        self.state.write(self._folder)

    def _stored(self, stored: StoredRound) -> Round:
        guests = {
            arm.name: tuple(self._jobs.read(stored.number, arm, test) for test in arm.tests)
            for arm in self._arms_of(stored.number)
        }
        return Round(stored.number, stored.order, guests, stored.seconds, stored.started_ns)


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


def samples_of(rounds: Sequence[Round], other: str) -> tuple[Sample, ...]:
    """Guests of A and of another arm, case by case."""
    if not rounds or other not in rounds[0].guests:
        return ()
    samples = []
    for place, first in enumerate(rounds[0].guests[A]):
        a, b = (tuple(item.guests[name][place] for item in rounds) for name in (A, other))
        samples.append(Sample(first.case, a, b, True))
    return tuple(samples)


def _refused(rounds: Sequence[Round], samples: Sequence[Sample]) -> bool:
    """Whether the policy refuses B and not A: further rounds would not change that."""
    a_to_b = any(guest.failures for item in rounds for guest in item.guests.get(A_TO_B, ()))
    return a_to_b or any(not item.also_a for item in decide(samples, SINGLE_ANALYSIS, Effect()).refusals)


def _hopeless(rounds: Sequence[Round]) -> bool:
    sides = [[guest for item in rounds for guest in item.guests[name]] for name in (A, B)]
    return len(rounds) >= HOPELESS_ROUNDS and any(not any(guest.valid for guest in guests) for guests in sides)


def _round_line(done: Round, elapsed: float, budget_s: float) -> str:
    arms = []
    for name, guests in done.guests.items():
        figures = [guest.median_ms("interruption-return") or guest.median_ms("stop-to-resume") for guest in guests]
        lost = sum(guest.packets.get("lost", 0) for guest in guests)
        shown = "/".join("-" if figure is None else f"{figure:.0f}" for figure in figures)
        refused = ", refused" if any(guest.failures for guest in guests) else ""
        discarded = ", discarded" if any(not guest.valid for guest in guests) else ""
        arms.append(f"{name} {shown} ms, {lost} lost{refused}{discarded}")
    return f"round {done.number}: {'; '.join(arms)}; {done.seconds:.0f} s; {elapsed:.0f} of {budget_s:.0f} s used"


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
    :param parallel: guests at once; None for one per core in the lab, one natively.
    :param say: takes lines of progress.
    :raises CprlibError: an error that ends the comparison; rounds so far stay.
    """
    policy = load_policy(request.policy)
    with STORE.locked(folder) as partial:
        state = read_state(folder)
        a = QemuBinary(Path(request.a), _path(request.a_firmware)) if request.a else None
        b = QemuBinary(Path(request.b), _path(request.b_firmware))
        assets = build_assets(progress, lab=request.engine is not None, qemu=a, base=request.base)
        sides = [Side(facts.path, facts.version, facts.sha256) for facts in (probe(assets.qemu), probe(b))]
        qemus = tuple(side.sha256 for side in sides)
        if state.qemus and state.qemus != qemus:
            raise UsageError(f"resume {folder}", "A or B is another binary than before", "start a new comparison")
        arms = make_arms(assets, b, request, tests)
        environment = describe_environment(
            mode="lab" if request.engine else "native",
            engine=request.engine or "",
            lab_kernel=assets.lab_kernel,
            accelerator=arms[0].parameters.get("accelerator", "tcg"),
        )
        children = Children()
        runner = JobRunner(request.engine, assets.lab_kernel, children.add)
        jobs = GuestJobs(folder, partial, runner, policy, children, environment)
        lines = ProgressLines(say)
        strategy = CompareStrategy(folder, request, arms, jobs, replace(state, qemus=qemus), lines.line)
        Pool(strategy, worker_count(parallel, request.engine), children).run()
        return conclude(folder, request, strategy, sides, policy, environment)


def conclude(
    folder: Path,
    request: CompareRequest,
    strategy: CompareStrategy,
    sides: Sequence[Side],
    policy: Policy,
    environment: Environment,
) -> Comparison:
    """The comparison at the end of its last round.

    :param sides: A and B.
    """
    rounds, analysis = strategy.rounds, strategy.analysis
    assert analysis is not None  # the last round has one
    samples, control = samples_of(rounds, B), samples_of(rounds, AGAIN)
    return Comparison(
        "session",
        sides[0],
        sides[1],
        samples,
        decide(samples, analysis, request.effect),
        analysis,
        request.effect,
        policy.name,
        environment,
        strategy.state.analyses,
        tuple(rounds),
        decide(control, analysis, request.effect) if control else None,
        tuple(guest for item in rounds for guest in item.guests.get(A_TO_B, ())),
        60 * request.budget,
        request.seed,
        command=request.command,
        started_ns=request.started_ns,
        finished_ns=time.time_ns(),
        folder=folder,
        parameters={**DEFAULTS, **(request.parameters or {})},
    )


def _path(name: str | None) -> Path | None:
    return Path(name) if name else None
