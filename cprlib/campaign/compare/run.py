"""A comparison from the wish to its end: rounds until every question is decided or the budget is used up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cprlib.campaign.compare.comparison import Comparison, Side
from cprlib.campaign.compare.decide import decide, smallest_p
from cprlib.campaign.compare.findings import Change, Effect, Findings, Sample
from cprlib.campaign.compare.kept import Kept, KeptRound
from cprlib.campaign.compare.looks import ONCE, Allowance, Look
from cprlib.campaign.compare.session import Arm, Round, Session, last_figures
from cprlib.campaign.job import JobRunner, SuiteTest
from cprlib.campaign.pool import Children
from cprlib.qemu.facts import QemuFacts
from cprlib.report.environment import Environment
from cprlib.verdict.policy import Policy

ASIDE = ".aside"
A, B, AGAIN, CROSSING = "a", "b", "a-again", "a-to-b"
CROSSING_ROUNDS = 2  # an update from A to B has a guest of its own: two of them say whether it works
HOPELESS = 2  # rounds without a chain that is believed, after which there is no use in going on


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a comparison is asked for.

    :param arms: A, B, and perhaps A again and updates from A to B.
    :param a, b: what the two are.
    :param budget_s: seconds for all rounds.
    :param whole: go on until the budget is used up even though everything is decided.
    :param seed: of the lots that are drawn.
    """

    arms: tuple[Arm, ...]
    a: Side
    b: Side
    effect: Effect
    policy: Policy
    budget_s: float
    whole: bool
    seed: int
    command: str = ""
    parameters: dict[str, str] = field(default_factory=dict)


def side_of(facts: QemuFacts, label: str = "") -> Side:
    """A QEMU as one side."""
    return Side(label or facts.path, facts.version, facts.sha256)


def make_arms(
    tests: tuple[SuiteTest, ...],
    a: Mapping[str, str],
    b: Mapping[str, str],
    *,
    again: bool,
    crossing: tuple[SuiteTest, ...] = (),
) -> tuple[Arm, ...]:
    """The arms of a comparison.

    :param a, b: Avocado's parameters with the one and the other QEMU.
    :param again: whether A is held against itself, too.
    :param crossing: tests that update from one QEMU to another.
    """
    target = {"target_qemu": b["qemu"]} | ({"target_firmware": b["firmware"]} if "firmware" in b else {})
    arms = [Arm(A, a, tests), Arm(B, b, tests)]
    arms += [Arm(AGAIN, a, tests)] if again else []
    arms += [Arm(CROSSING, {**a, **target}, crossing)] if crossing else []
    return tuple(arms)


def compare(
    folder: Path,
    wanted: Wanted,
    kept: Kept,
    *,
    engine: str | None,
    lab_kernel: Path | None,
    workers: int,
    environment: Environment,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Comparison:
    """Run rounds, look at the data when it is time to, and stop when everything is decided.

    :param folder: of the comparison; cells are stored in it, and after each round where it is.
    :param kept: where it is: without rounds for a new one.
    :param engine: of the lab, None to run natively.
    :param workers: chains at once.
    :param say: takes lines of progress.
    :raises CprlibError: what keeps the comparison from going on.
    """
    aside, started_ns = folder / ASIDE, kept.asked.started_ns or time.time_ns()
    shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
    children = Children()
    session = Session(
        folder,
        aside,
        JobRunner(engine, lab_kernel, children.add),
        wanted.policy,
        workers,
        wanted.seed,
        children,
        environment,
    )
    if not kept.rounds:
        kept.write(folder)  # one that is interrupted in its first round can be gone on with as well
    try:
        rounds, looks, look = _rounds(session, wanted, kept, say, clock)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return conclude(wanted, rounds, look, looks=looks, environment=environment, folder=folder, started_ns=started_ns)


def _rounds(
    session: Session, wanted: Wanted, kept: Kept, say: Callable[[str], None], clock: Callable[[], float]
) -> tuple[list[Round], list[int], Look]:
    allowance, looks = Allowance(kept.used), list(kept.looks)
    rounds = [session.read(item, _arms_of(item.number, wanted)) for item in kept.rounds]
    begun = clock() - kept.elapsed_s
    while True:
        number = len(rounds) + 1
        rounds.append(session.run(number, _arms_of(number, wanted)))
        elapsed = clock() - begun
        last_figures(rounds[-1], say, elapsed, wanted.budget_s)
        samples = samples_of(rounds, B)
        over = elapsed + rounds[-1].seconds > wanted.budget_s
        if not wanted.whole and (_sure(rounds, samples) or _hopeless(rounds)):
            over = True
        look = allowance.look(elapsed / wanted.budget_s, smallest_p(samples), last=over)
        if look is not None:
            looks.append(number)
            found = decide(samples, look, wanted.effect)
            say(f"look after round {number}: {told(found)}")
            over = over or (not wanted.whole and _decided(found))
        where = tuple(KeptRound(item.number, item.order, item.seconds, item.started_ns) for item in rounds)
        replace(
            kept, rounds=where, looks=tuple(looks), used=allowance.used, elapsed_s=round(elapsed, 3), ended=over
        ).write(session.folder)
        if over and look is not None:
            return rounds, looks, look


def _arms_of(number: int, wanted: Wanted) -> list[Arm]:
    return [arm for arm in wanted.arms if arm.name != CROSSING or number <= CROSSING_ROUNDS]


def told(found: Findings) -> str:
    """A look in a few words."""
    if found.change == Change.UNDECIDED:
        return f"{len(found.undecided)} undecided, as {', '.join(found.undecided[:2]) or 'nothing is known'}"
    return found.change.value


def _decided(found: Findings) -> bool:
    """A regression decides; else everything has to."""
    return found.change != Change.UNDECIDED


def _sure(rounds: Sequence[Round], samples: Sequence[Sample]) -> bool:
    """Whether the policy refuses B and not A: further rounds would not change that."""
    crossed = any(chain.failures for item in rounds for chain in item.chains.get(CROSSING, ()))
    return crossed or any(not item.also_a for item in decide(samples, ONCE, Effect()).accusations)


def _hopeless(rounds: Sequence[Round]) -> bool:
    sides = [[chain for item in rounds for chain in item.chains[name]] for name in (A, B)]
    return len(rounds) >= HOPELESS and any(not any(chain.believed for chain in chains) for chains in sides)


def samples_of(rounds: Sequence[Round], other: str) -> tuple[Sample, ...]:
    """Chains of A and of another arm, case by case."""
    if not rounds or other not in rounds[0].chains:
        return ()
    samples = []
    for place, first in enumerate(rounds[0].chains[A]):
        a, b = (tuple(item.chains[name][place] for item in rounds) for name in (A, other))
        samples.append(Sample(first.case, a, b, True))
    return tuple(samples)


def conclude(
    wanted: Wanted,
    rounds: Sequence[Round],
    look: Look,
    *,
    looks: Sequence[int],
    environment: Environment,
    folder: Path | None,
    started_ns: int,
) -> Comparison:
    """What rounds came to, with the last look."""
    samples, control = samples_of(rounds, B), samples_of(rounds, AGAIN)
    crossings = tuple(chain for item in rounds for chain in item.chains.get(CROSSING, ()))
    return Comparison(
        "session",
        wanted.a,
        wanted.b,
        samples,
        decide(samples, look, wanted.effect),
        look,
        wanted.effect,
        wanted.policy.name,
        environment,
        tuple(looks),
        tuple(rounds),
        decide(control, look, wanted.effect) if control else None,
        crossings,
        wanted.budget_s,
        wanted.seed,
        command=wanted.command,
        started_ns=started_ns,
        finished_ns=time.time_ns(),
        folder=folder,
        parameters=wanted.parameters,
    )
