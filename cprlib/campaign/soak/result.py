"""What a soak came to: its cases and its trends, each with a verdict, and both together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.soak.record import Past, Wanted
from cprlib.campaign.soak.resources import RESOURCES, Resource
from cprlib.campaign.soak.trend import LEAST_SAMPLES, Trend, trend
from cprlib.errors import ExitStatus
from cprlib.evidence.terms import Outcome
from cprlib.report.environment import Environment
from cprlib.report.run_report import EXIT_STATUS
from cprlib.verdict.findings import Finding, Verdict, combine, failed, passed, unsure

STATES = ("running", "interrupted", "ended")


@dataclass(frozen=True)
class SoakResult:
    """A soak, at its end or on the way.

    :param folder: of the soak.
    :param state: one of :data:`STATES`.
    :param command: that began or resumed it last.
    """

    folder: Path
    wanted: Wanted
    past: Past
    environment: Environment
    state: str = "running"
    command: str = ""
    finished_ns: int | None = None

    @cached_property
    def trends(self) -> Mapping[str, Trend]:
        """Of each resource."""
        return {resource.name: trend(self.series(resource), resource.size) for resource in RESOURCES}

    def series(self, resource: Resource) -> list[list[tuple[float, float]]]:
        """A resource's samples as (seconds, value), session by session; one that lasts has one session."""
        sessions: dict[int, list[tuple[float, float]]] = {}
        for sample in self.past.samples:
            value = sample.values.get(resource.name)
            if value is not None:
                key = 0 if resource.lasting else sample.session
                sessions.setdefault(key, []).append((sample.at_s, value))
        return list(sessions.values())

    @cached_property
    def counts(self) -> Mapping[CellOutcome, int]:
        """How many cases came to what."""
        found = Counter(row.outcome for row in self.past.cases)
        return {outcome: found[outcome] for outcome in CellOutcome}

    @cached_property
    def cases_verdict(self) -> Verdict:
        """Of the cases alone."""
        return combine(self._cases(), "no case ran to its end")

    @cached_property
    def resources_verdict(self) -> Verdict:
        """Of the trends alone."""
        return combine(self._resources(), "the harness was never looked at")

    @cached_property
    def verdict(self) -> Verdict:
        """The worse of both."""
        return combine((*self.cases_verdict.findings, *self.resources_verdict.findings), "nothing was soaked")

    @property
    def exit_status(self) -> ExitStatus:
        """0, 1 or 3."""
        return EXIT_STATUS[self.verdict.outcome]

    @property
    def sentence(self) -> str:
        """``31 cases in 4 min: 30 passed, 1 failed; resources flat``."""
        words = {CellOutcome.DETECTED: "failed"}
        seen = [(outcome, count) for outcome, count in self.counts.items() if count]
        ran = ", ".join(f"{count} {words.get(outcome, outcome.value)}" for outcome, count in seen)
        flat = {
            Outcome.PASS: "resources flat",
            Outcome.FAIL: "a resource grows",
            Outcome.INCONCLUSIVE: "not every resource is known to be flat",
        }[self.resources_verdict.outcome]
        total = len(self.past.cases)
        return f"{total} case{'' if total == 1 else 's'} in {self.past.seconds / 60:.1f} min: {ran or 'none'}; {flat}"

    def _cases(self) -> Iterator[Finding]:
        quiet = 0
        for row in self.past.cases:
            about = f"case {row.number}, {row.test}"
            said = row.messages[0] if row.messages else "no reason given"
            if row.left:
                yield failed(about, f"it left {len(row.left)} processes behind: {row.left[0]}")
            match row.outcome:
                case CellOutcome.DETECTED:
                    yield failed(about, said)
                case CellOutcome.CRASHED:
                    yield unsure(about, f"crashed: {said}")
                case CellOutcome.INCONCLUSIVE:
                    yield unsure(about, said)
                case CellOutcome.PASSED:
                    quiet += 1
                case CellOutcome.SKIPPED:
                    yield Finding(Outcome.SKIP, about, said)
        if quiet:
            yield passed("cases", f"{quiet} passed")

    def _resources(self) -> Iterator[Finding]:
        findings = [resource_finding(resource, self.trends[resource.name]) for resource in RESOURCES]
        if any(finding.outcome != Outcome.INCONCLUSIVE for finding in findings):
            yield from findings
            return
        most = max(seen.samples for seen in self.trends.values())
        text = f"each was looked at {most} times at most after the warm-up, {LEAST_SAMPLES} are needed: soak longer"
        yield unsure("resources", text)


def trend_words(seen: Trend) -> str:
    """The verdict of a trend in a few words."""
    if seen.outcome != Outcome.INCONCLUSIVE:
        return "grows" if seen.outcome == Outcome.FAIL else "flat"
    return "too few samples" if seen.samples < LEAST_SAMPLES else "may grow"


def resource_finding(resource: Resource, seen: Trend) -> Finding:
    """What a trend says for the verdict."""
    if seen.per_hour is None or seen.growth is None or seen.p is None:
        text = f"it was looked at {seen.samples} times"
        return unsure(resource.name, f"{text}, {LEAST_SAMPLES} are needed after the warm-up: soak longer")
    figures = (
        f"{seen.first:,.1f} to {seen.last:,.1f} {resource.unit}, {seen.per_hour:+,.2f} an hour, "
        f"{seen.growth:+,.2f} in the time looked at (p {seen.p:.2g}, {seen.samples} samples)"
    )
    if seen.outcome == Outcome.FAIL:
        return failed(resource.name, f"it grows: {figures}; {resource.size:g} {resource.unit} are allowed")
    if seen.outcome == Outcome.INCONCLUSIVE:
        few = f"too few samples, {LEAST_SAMPLES} are needed" if seen.samples < LEAST_SAMPLES else "it may grow"
        return unsure(resource.name, f"{few}: {figures}; soak longer")
    return passed(resource.name, f"flat: {figures}")
