"""The record that compare.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cprlib.campaign.compare.comparison import Comparison, Side
from cprlib.campaign.compare.decision import Change, Decision, Effect, Sample
from cprlib.campaign.compare.guest import GuestResult
from cprlib.campaign.compare.session import StoredRound
from cprlib.campaign.compare.statistics import FALSE_ALARM
from cprlib.report.environment import Environment
from cprlib.report.formatting import utc
from cprlib.report.schema import SchemaFile

SCHEMA: Final = 2  # of compare.json


@dataclass(frozen=True, slots=True)
class CompareDocument:
    """What compare.json holds. An unknown figure is null, never 0.

    :param schema: of this file, :data:`SCHEMA`.
    :param kind: ``session``, ``saved`` or ``baseline``.
    :param a_against_a: decision on A against itself; None when not requested.
    :param a_to_b: guests that were updated from A to B.
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
    samples: tuple[Sample, ...]
    decision: Decision
    a_against_a: Decision | None
    a_to_b: tuple[GuestResult, ...]
    rounds: tuple[StoredRound, ...]
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
        samples=made.samples,
        decision=made.decision,
        a_against_a=made.control,
        a_to_b=made.updates_a_to_b,
        rounds=tuple(StoredRound(item.number, item.order, item.seconds, item.started_ns) for item in made.rounds),
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
