"""Findings: what one property of a case says for its verdict, and how findings combine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cprlib.evidence.case import Outcome


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason of a verdict.

    :param outcome: what it leads to.
    :param about: the property: ``loss``, ``identity``, ``instrument``, or a check's name.
    :param text: one sentence with the figures.
    """

    outcome: Outcome
    about: str
    text: str


OWN_VERDICT = (
    "verdict: "  # a test's reason for its Avocado status begins so when it only repeats its evidence's verdict
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a case or a run and the findings that led to it, those that decide first."""

    outcome: Outcome
    findings: tuple[Finding, ...] = ()

    @property
    def reasons(self) -> tuple[Finding, ...]:
        """The findings that decide: failures for a fail, and so on; for a pass what was found good."""
        return tuple(finding for finding in self.findings if finding.outcome == self.outcome)

    def status_reason(self) -> str:
        """The reason that a test gives Avocado when it ends with this verdict.

        The report knows it by its beginning and judges the evidence anew, perhaps by another policy, instead of taking
        the status for a finding of its own.
        """
        return f"{OWN_VERDICT}{self.outcome}: {'; '.join(finding.text for finding in self.reasons[:4])}"


def passed(about: str, text: str) -> Finding:
    """A property that was looked at and is as the policy wants it."""
    return Finding(Outcome.PASS, about, text)


def failed(about: str, text: str) -> Finding:
    """A property that the policy does not let pass."""
    return Finding(Outcome.FAIL, about, text)


def unsure(about: str, text: str) -> Finding:
    """A property of which nothing can be said."""
    return Finding(Outcome.INCONCLUSIVE, about, text)


_ORDER = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.SKIP)


def combine(findings: Iterable[Finding], nothing: str) -> Verdict:
    """The worst finding decides: fail, then inconclusive, then pass; only skips, or nothing at all, prove nothing.

    :param nothing: the reason given when no finding is a pass, a fail or inconclusive.
    """
    ordered = tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.outcome)))
    if not ordered or ordered[0].outcome == Outcome.SKIP:
        return Verdict(Outcome.INCONCLUSIVE, (unsure("evidence", nothing), *ordered))
    return Verdict(ordered[0].outcome, ordered)
