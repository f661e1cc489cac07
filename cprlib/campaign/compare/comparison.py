"""The result of a comparison, as compare.json holds it; also that of two saved results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cprlib.campaign.compare import Effect
from cprlib.campaign.compare.conditions import (
    all_differences,
    find_descriptions,
    find_session,
    missing_cases,
    other_parameters,
    parameters_of,
    read_environments,
)
from cprlib.campaign.compare.decide import decide
from cprlib.campaign.compare.decision import OUTCOMES, Change, Decision, Sample
from cprlib.campaign.compare.guest import GuestResult, UsedQemu, read_guests
from cprlib.campaign.compare.statistics import FALSE_ALARM, SINGLE_ANALYSIS, Analysis
from cprlib.errors import UsageError
from cprlib.report.environment import Environment, join_environments
from cprlib.report.formatting import utc
from cprlib.report.run_report import EXIT_STATUS
from cprlib.report.schema import SchemaFile
from cprlib.verdict.policy import Policy
from cprlib.words import listed

SCHEMA: Final = 2  # of compare.json
WORDS = {
    Change.REGRESS: "REGRESSION",
    Change.IMPROVE: "NO REGRESSION, IMPROVED",
    Change.SAME: "NO REGRESSION",
    Change.UNDECIDED: "UNDECIDED",
}


@dataclass(frozen=True, slots=True)
class Side:
    """A or B.

    :param label: path of a QEMU, of saved results, or of a baseline.
    """

    label: str
    version: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """One round: each case once on each arm. Its guests are read from their results.

    :param number: from 1.
    :param order: arm and case in the order of their start.
    :param started_ns: CLOCK_REALTIME.
    """

    number: int
    order: tuple[tuple[str, str], ...]
    seconds: float
    started_ns: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison. An unknown figure is null, never 0.

    :param schema: of compare.json, :data:`SCHEMA`.
    :param kind: ``session`` (A and B in turn), ``saved`` (two results folders) or ``baseline``.
    :param reason: of the verdict, in a line.
    :param regressions: each in a few words.
    :param samples: all guests, by case.
    :param a_against_a: decision on A against itself; None when not requested.
    :param a_to_b: guests that were updated from A to B.
    :param interim_analyses: rounds after which there was one; the last one decided.
    :param false_alarm: probability of a regression between equal QEMUs.
    :param confidence: of the intervals, in the last analysis.
    :param budget_s: seconds for all rounds.
    :param problems: why nothing is decided although there are figures.
    """

    schema: Literal[2]
    kind: str
    verdict: Change
    exit_status: int
    reason: str
    regressions: tuple[str, ...]
    a: Side
    b: Side
    samples: tuple[Sample, ...]
    decision: Decision
    a_against_a: Decision | None
    a_to_b: tuple[GuestResult, ...]
    rounds: tuple[Round, ...]
    interim_analyses: tuple[int, ...]
    false_alarm: float
    confidence: float
    min_effect: Effect
    budget_s: float | None
    seed: int | None
    policy: str
    parameters: Mapping[str, str]
    environment: Environment
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    command: str
    started: str | None
    finished: str | None


COMPARE_SCHEMA_FILE = SchemaFile("compare", SCHEMA, Comparison)


def make_comparison(
    kind: str,
    a: Side,
    b: Side,
    samples: Sequence[Sample],
    effect: Effect,
    policy: Policy,
    environment: Environment,
    *,
    analysis: Analysis = SINGLE_ANALYSIS,
    control: Sequence[Sample] = (),
    a_to_b: Sequence[GuestResult] = (),
    problems: Sequence[str] = (),
    notes: Sequence[str] = (),
    command: str = "",
) -> Comparison:
    """Decide now, and derive the verdict; a session adds its rounds and its own times.

    :param analysis: that decides.
    :param control: A against A in the same rounds.
    :param problems: why nothing can be decided.
    """
    now = utc(time.time_ns())
    decision = decide(samples, analysis, effect)
    a_against_a = decide(control, analysis, effect) if control else None
    failures, unsteady = a_to_b_failures(a_to_b), _unsteady(a_against_a)
    verdict = decision.change
    if failures or any(not item.a_guests for item in decision.refusals):
        verdict = Change.REGRESS  # a refusal is no matter of noise
    elif problems or unsteady:
        verdict = Change.UNDECIDED
    regressions, problems = (*decision.regressions, *failures), (*problems, *decision.problems, *unsteady)
    return Comparison(
        schema=SCHEMA,
        kind=kind,
        verdict=verdict,
        exit_status=int(EXIT_STATUS[OUTCOMES[verdict]]),
        reason=_reason(verdict, decision, effect, regressions, problems),
        regressions=regressions,
        a=a,
        b=b,
        samples=tuple(samples),
        decision=decision,
        a_against_a=a_against_a,
        a_to_b=tuple(a_to_b),
        rounds=(),
        interim_analyses=(),
        false_alarm=FALSE_ALARM,
        confidence=analysis.confidence,
        min_effect=effect,
        budget_s=None,
        seed=None,
        policy=policy.name,
        parameters={},
        environment=environment,
        problems=problems,
        notes=tuple(notes),
        command=command,
        started=now,
        finished=now,
    )


def a_to_b_failures(guests: Sequence[GuestResult]) -> tuple[str, ...]:
    """What the policy refuses in updates from A to B."""
    texts = [f"{item.about}: {item.text}" for guest in guests for item in guest.failures]
    return tuple(f"update from A to B: {text}" for text in dict.fromkeys(texts))


def _unsteady(control: Decision | None) -> list[str]:
    """Metrics in which A differs from itself, by the machine alone: durations say nothing then."""
    moved = [item for item in control.durations if item.change in (Change.REGRESS, Change.IMPROVE)] if control else []
    return [f"A against A differs in {item.metric.label}: the machine is too unsteady" for item in moved]


def _reason(
    verdict: Change, decision: Decision, effect: Effect, regressions: Sequence[str], problems: Sequence[str]
) -> str:
    if verdict == Change.REGRESS:
        return listed(regressions, 4)
    if verdict == Change.UNDECIDED:
        return "; ".join(problems[:3]) or f"undecided: {', '.join(decision.undecided) or 'no valid guest'}"
    better = [item for item in decision.durations if item.change == Change.IMPROVE]
    faster = f"shorter: {', '.join(item.metric.label for item in better)}; " if better else ""
    lost = ", nothing lost" if any(item.metric.name == "lost" for item in decision.counts) else ""
    return f"{faster}no difference of {100 * effect.ratio:.0f} % or more{lost}"


def compare_saved(a: Path, b: Path, policy: Policy, effect: Effect, command: str = "") -> Comparison:
    """Compare two saved results folders, or folders of such, in a single analysis.

    Cases with other parameters are not compared, and nothing is decided between different machines.

    :raises UsageError: no case in common.
    :raises InstrumentError: one has no case.
    """
    guests_a, guests_b = (read_guests(path, policy) for path in (a, b))
    other = other_parameters("A", {case: parameters_of(guests) for case, guests in guests_a.items()}, guests_b)
    samples = tuple(
        Sample(case, found, guests_b[case], False)
        for case, found in guests_a.items()
        if case in guests_b and case not in other
    )
    if not samples and not other:
        raise UsageError(
            f"compare {a} with {b}",
            f"no case in common: A has {', '.join(guests_a)}, B has {', '.join(guests_b)}",
            "run the same tests on both",
        )
    machines = [
        machine
        for path in (a, b)
        for machine in (read_environments(path) if find_descriptions(path) else (Environment(),))
    ]
    # a comparison that was interrupted has no description of its machine, but it has one machine
    session = find_session(a)
    one_machine = session is not None and session == find_session(b)
    different = [] if one_machine else [f"different machines: {item}" for item in all_differences(machines)]
    note = "A and B did not run in turn: a change of the machine in between looks like a difference of QEMU"
    return make_comparison(
        "saved",
        side_of(a, guests_a),
        side_of(b, guests_b),
        samples,
        effect,
        policy,
        join_environments(machines),
        problems=[*other.values(), *missing_cases(guests_a, guests_b), *different],
        notes=[note],
        command=command,
    )


def side_of(results: Path, guests: Mapping[str, tuple[GuestResult, ...]]) -> Side:
    """The side of saved results, with the QEMU that their guests ended in."""
    qemu = next((found[-1].qemu for found in guests.values()), UsedQemu())
    return Side(str(results), qemu.version, qemu.sha256)
