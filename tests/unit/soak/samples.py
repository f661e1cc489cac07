"""Sample soaks for tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cprlib.campaign.outcome import JobOutcome
from cprlib.campaign.soak.draw import Choices
from cprlib.campaign.soak.resources import RESOURCES
from cprlib.campaign.soak.result import (
    ResourceSample,
    SoakCase,
    SoakHistory,
    SoakRequest,
    SoakResult,
    SoakSession,
)
from cprlib.report.environment import Environment

CHOICES = Choices({"rate": ("400", "1000"), "size": ("44", "64", "128")}, {"test-a": ("rate", "size")})
REQUEST = SoakRequest(
    seed=7, hours=1.0, tests=("test-a", "test-b", "test-c"), choices=CHOICES, engine="uml", base="10.0"
)
MACHINE = Environment(mode="lab", engine="uml", kernel="6.12", python="3.13.1", cprlib="0.1.0")


def case(number: int, outcome: JobOutcome = JobOutcome.PASSED, *messages: str, **more: object) -> SoakCase:
    """A case that ended."""
    made = SoakCase(number, 0, "test-a", {"rate": "400"}, outcome, messages, seconds=12.3)
    return replace(made, **more)  # type: ignore[arg-type]


def flat_samples(count: int = 20, session: int = 0, start_s: float = 0.0) -> list[ResourceSample]:
    """Samples in which nothing grows."""
    values: dict[str, float | None] = {resource.name: 10.0 for resource in RESOURCES}
    return [ResourceSample(session, start_s + 60.0 * place, place * 4, values) for place in range(count)]


def growing(name: str, step: float, samples: Iterable[ResourceSample]) -> list[ResourceSample]:
    """The same samples with one resource that grows by ``step`` from each to the next."""
    return [
        replace(sample, values={**sample.values, name: 10.0 + step * place}) for place, sample in enumerate(samples)
    ]


def result(
    folder: Path, *cases: SoakCase, samples: Iterable[ResourceSample] | None = None, **more: object
) -> SoakResult:
    """A soak that has ended; flat and with one passed case unless given."""
    taken = tuple(flat_samples() if samples is None else samples)
    history = SoakHistory((SoakSession(1, 1200.0),), taken, cases or (case(1),))
    made = SoakResult(folder, REQUEST, history, MACHINE, "ended", "cprlib soak --hours 1", 2)
    return replace(made, **more)  # type: ignore[arg-type]
