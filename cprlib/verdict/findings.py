"""Findings, each about one property of a case, and the verdict that they make together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cprlib.evidence.records import Outcome
from cprlib.traffic.figures import Direction

_WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.SKIP)


class HasOutcome(Protocol):
    """A check, a finding, a case."""

    @property
    def outcome(self) -> Outcome: ...


Item = TypeVar("Item", bound=HasOutcome)


def worst_first(items: Iterable[Item]) -> list[Item]:
    """Items sorted by outcome: fail, inconclusive, pass, skip."""
    return sorted(items, key=lambda item: _WORST_FIRST.index(item.outcome))


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason of a verdict.

    :param outcome: the verdict that it leads to.
    :param about: the property: ``loss``, ``identity``, ``instrument``, or a check's name.
    :param text: one sentence with the figures.
    :param family: the property without the step, fault or stream at which it was judged, by which reports group; it is
        ``about`` when empty.
    :param direction: direction of the packets that it is about; None when it is about both, or about none.
    """

    outcome: Outcome
    about: str
    text: str
    family: str = ""
    direction: Direction | None = None

    @property
    def property_name(self) -> str:
        """The property by which reports group."""
        return self.family or self.about


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a case or a run, and its findings; those that decide it come first."""

    outcome: Outcome
    findings: tuple[Finding, ...] = ()

    @property
    def reasons(self) -> tuple[Finding, ...]:
        """The findings that decide: the failures of a fail, the passes of a pass, ..."""
        return tuple(finding for finding in self.findings if finding.outcome == self.outcome)

    def status_reason(self) -> str:
        """The reason that a test gives Avocado when it ends with this verdict."""
        return f"verdict: {self.outcome}: {'; '.join(finding.text for finding in self.reasons[:4])}"


def passed(about: str, text: str, *, direction: Direction | None = None) -> Finding:
    """A property that satisfies the policy."""
    return Finding(Outcome.PASS, about, text, direction=direction)


def failed(about: str, text: str, *, direction: Direction | None = None) -> Finding:
    """A property that violates the policy."""
    return Finding(Outcome.FAIL, about, text, direction=direction)


def inconclusive(about: str, text: str, *, direction: Direction | None = None) -> Finding:
    """A property that could not be determined."""
    return Finding(Outcome.INCONCLUSIVE, about, text, direction=direction)


def combine(findings: Iterable[Finding], nothing: str) -> Verdict:
    """The worst finding decides: fail, then inconclusive, then pass; skips alone are inconclusive.

    :param nothing: the reason given when no finding is a pass, a fail or inconclusive.
    """
    ordered = tuple(worst_first(findings))
    if not ordered or ordered[0].outcome == Outcome.SKIP:
        return Verdict(Outcome.INCONCLUSIVE, (inconclusive("evidence", nothing), *ordered))
    return Verdict(ordered[0].outcome, ordered)
