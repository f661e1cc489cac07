"""The records that compare.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cprlib.campaign.compare.comparison import Comparison, Round, Side
from cprlib.campaign.compare.decision import Change, CountResult, DurationResult, Effect, Refusal, Sample
from cprlib.campaign.compare.guest import GuestResult
from cprlib.campaign.compare.statistics import FALSE_ALARM
from cprlib.report.environment import Environment
from cprlib.report.formatting import utc
from cprlib.report.schema import SchemaFile

SCHEMA: Final = 2  # of compare.json


@dataclass(frozen=True, slots=True)
class GuestEntry:
    """One guest; members as in :class:`cprlib.campaign.compare.guest.GuestResult`."""

    updates: int
    durations_ms: Mapping[str, tuple[float, ...]]
    packets: Mapping[str, int]
    affected_updates: Mapping[str, int]
    sent: int
    valid: bool
    failures: tuple[str, ...]
    problems: tuple[str, ...]
    skipped: str
    overlong: bool
    started: str | None
    seconds: float
    folder: str


@dataclass(frozen=True, slots=True)
class DurationEntry:
    """A duration; members as in :class:`cprlib.campaign.compare.decision.DurationResult`."""

    metric: str
    a: float | None
    b: float | None
    ratio: float | None
    low: float | None
    high: float | None
    worse: float
    better: float
    effect: float
    noise: float | None
    change: Change
    a_values: tuple[float, ...]
    b_values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CountEntry:
    """A count; members as in :class:`cprlib.campaign.compare.decision.CountResult`."""

    metric: str
    a: int
    b: int
    a_affected: int
    b_affected: int
    a_updates: int
    b_updates: int
    worse: float
    at_most: float
    change: Change


@dataclass(frozen=True, slots=True)
class CaseEntry:
    """One case with its guests and decisions.

    :param paired: guests with the same index ran in one round.
    """

    id: str
    paired: bool
    a: tuple[GuestEntry, ...]
    b: tuple[GuestEntry, ...]
    durations: tuple[DurationEntry, ...]
    counts: tuple[CountEntry, ...]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class StartEntry:
    """A guest in the order of a round."""

    arm: str
    case: str


@dataclass(frozen=True, slots=True)
class RoundEntry:
    """A round; its guests in the order of their start."""

    number: int
    started: str | None
    seconds: float
    order: tuple[StartEntry, ...]


@dataclass(frozen=True, slots=True)
class CompareDocument:
    """What compare.json holds. An unknown figure is null, never 0.

    :param schema: of this file, :data:`SCHEMA`.
    :param kind: ``session``, ``saved`` or ``baseline``.
    :param a_against_a: durations of A against itself; None when not requested.
    :param interim_analyses: rounds after which there was one.
    :param false_alarm: probability of a regression between equal QEMUs.
    :param confidence: of the intervals, in the last analysis.
    :param budget_s: seconds for all rounds.
    """

    schema: Literal[2]
    kind: str
    verdict: Change
    exit_status: int
    reason: str
    regressions: tuple[str, ...]
    a: Side
    b: Side
    cases: tuple[CaseEntry, ...]
    a_against_a: tuple[DurationEntry, ...] | None
    a_to_b: tuple[GuestEntry, ...]
    rounds: tuple[RoundEntry, ...]
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


COMPARE_SCHEMA_FILE = SchemaFile("compare", SCHEMA, CompareDocument)


def comparison_document(made: Comparison) -> CompareDocument:
    """A comparison as compare.json holds it."""
    return CompareDocument(
        schema=SCHEMA,
        kind=made.kind,
        verdict=made.change,
        exit_status=int(made.exit_status),
        reason=made.reason,
        regressions=made.regressions,
        a=made.a,
        b=made.b,
        cases=tuple(_case_entry(made, sample) for sample in made.samples),
        a_against_a=None if made.control is None else tuple(map(_duration_entry, made.control.durations)),
        a_to_b=tuple(map(_guest_entry, made.updates_a_to_b)),
        rounds=tuple(
            RoundEntry(
                item.number,
                utc(item.started_ns),
                item.seconds,
                tuple(StartEntry(arm, case) for arm, case in item.order),
            )
            for item in made.rounds
        ),
        interim_analyses=made.analyses,
        false_alarm=FALSE_ALARM,
        confidence=made.analysis.confidence,
        min_effect=made.effect,
        budget_s=made.budget_s,
        seed=made.seed,
        policy=made.policy,
        parameters=made.parameters,
        environment=made.environment,
        problems=made.all_problems,
        notes=made.notes,
        command=made.command,
        started=utc(made.started_ns or None),
        finished=utc(made.finished_ns or None),
    )


def _round_entry(item: Round) -> RoundEntry:
    order = tuple(StartEntry(arm, case) for arm, case in item.order)
    return RoundEntry(item.number, utc(item.started_ns), item.seconds, order)


def _case_entry(made: Comparison, sample: Sample) -> CaseEntry:
    decision = made.decision
    return CaseEntry(
        sample.case,
        sample.paired,
        tuple(map(_guest_entry, sample.a)),
        tuple(map(_guest_entry, sample.b)),
        tuple(_duration_entry(item) for item in decision.durations if item.case == sample.case),
        tuple(_count_entry(item) for item in decision.counts if item.case == sample.case),
        tuple(item for item in decision.refusals if item.case == sample.case),
    )


def _duration_entry(item: DurationResult) -> DurationEntry:
    names = ("a", "b", "ratio", "low", "high", "worse", "better", "effect", "noise", "change", "a_values", "b_values")
    return DurationEntry(item.metric.name, *(getattr(item, name) for name in names))


def _count_entry(item: CountResult) -> CountEntry:
    names = ("a", "b", "a_affected", "b_affected", "a_updates", "b_updates", "worse", "at_most", "change")
    return CountEntry(item.metric.name, *(getattr(item, name) for name in names))


def _guest_entry(guest: GuestResult) -> GuestEntry:
    return GuestEntry(
        guest.updates,
        {name: tuple(round(value, 3) for value in values) for name, values in guest.durations.items()},
        guest.packets,
        guest.affected,
        guest.sent,
        guest.valid,
        tuple(f"{item.about}: {item.text}" for item in guest.failures),
        guest.problems,
        guest.skipped,
        guest.overlong,
        utc(guest.started_ns or None),
        guest.seconds,
        guest.folder,
    )
