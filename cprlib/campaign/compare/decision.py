"""The records of a decision: samples of guests, results for each metric, refusals, and the verdict that follows."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cprlib.campaign.compare.guest import GuestResult, Metric
from cprlib.evidence.records import Outcome


class Change(enum.StrEnum):
    """The decision on a property of B against A."""

    REGRESS = "regress"
    IMPROVE = "improve"
    SAME = "same"
    UNDECIDED = "undecided"


OUTCOMES = {
    Change.REGRESS: Outcome.FAIL,
    Change.SAME: Outcome.PASS,
    Change.IMPROVE: Outcome.PASS,
    Change.UNDECIDED: Outcome.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Guests of one case.

    :param a, b: where paired, those with the same index ran side by side.
    """

    case: str
    a: tuple[GuestResult, ...]
    b: tuple[GuestResult, ...]
    paired: bool


@dataclass(frozen=True, slots=True)
class DurationResult:
    """A duration of A against B.

    :param a_values, b_values: ms, median of each guest; in pairs where the sample has pairs.
    :param a, b: ms, median of all updates.
    :param ratio: B/A, geometric mean over the guests. :param low, high: its interval, None with too few guests.
    :param worse, better: one-sided p, adjusted for the number of tests.
    :param effect: the smallest difference that matters, as a part of A.
    :param noise: scatter of a guest within its round, or of A's guests where there are no rounds, as a part of A; None
        with fewer than two.
    """

    case: str
    metric: Metric
    a_values: tuple[float, ...]
    b_values: tuple[float, ...]
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


@dataclass(frozen=True, slots=True)
class CountResult:
    """Lost, duplicated or reordered packets.

    :param a, b: packets. :param a_affected, b_affected: updates with at least one.
    :param worse: one-sided p that guests with such updates are more frequent with B, adjusted for the number of tests.
    :param at_most: upper end of the share of B's affected updates, with 95 % confidence.
    """

    case: str
    metric: Metric
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
class Refusal:
    """A property that the policy refuses in B; needs statistics only where A has it, too.

    :param guests: B's guests with it. :param of: all of B's guests. :param a_guests, a_of: the same of A.
    """

    case: str
    text: str
    guests: int
    of: int
    a_guests: int
    a_of: int
    change: Change


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one analysis.

    :param problems: why a case has no figures.
    """

    durations: tuple[DurationResult, ...]
    counts: tuple[CountResult, ...]
    refusals: tuple[Refusal, ...]
    problems: tuple[str, ...]

    @property
    def regressions(self) -> tuple[str, ...]:
        """Each in a few words."""
        longer = [item for item in self.durations if item.change == Change.REGRESS]
        more = [item for item in self.counts if item.change == Change.REGRESS]
        return (
            *(self._named(item.case, item.text) for item in self.refusals if item.change == Change.REGRESS),
            *(self._named(item.case, f"{item.metric.label} {item.ratio:.2f} times A's") for item in longer),
            *(
                self._named(item.case, f"{item.metric.label} in {item.b_affected} of {item.b_updates} updates")
                for item in more
            ),
        )

    @property
    def undecided(self) -> tuple[str, ...]:
        results: tuple[DurationResult | CountResult, ...] = (*self.durations, *self.counts)
        found = [(item.case, item.metric.label, item.change) for item in results]
        found += [(item.case, item.text, item.change) for item in self.refusals]
        return tuple(self._named(case, text) for case, text, change in found if change == Change.UNDECIDED)

    def _named(self, case: str, text: str) -> str:
        """With the case in front where there are several."""
        cases = {item.case for item in self.durations} | {item.case for item in self.refusals}
        return f"{case}: {text}" if len(cases) > 1 else text

    @property
    def change(self) -> Change:
        """All together: one regression decides; without one, everything has to be decided."""
        if self.regressions:
            return Change.REGRESS
        if self.undecided or self.problems or not self.durations:
            return Change.UNDECIDED
        changes = {item.change for item in self.durations} | {item.change for item in self.counts}
        return Change.IMPROVE if Change.IMPROVE in changes else Change.SAME

    @property
    def words(self) -> str:
        """For a line of progress."""
        if self.change != Change.UNDECIDED:
            return self.change.value
        return f"{len(self.undecided)} undecided, e.g. {', '.join(self.undecided[:2]) or 'no valid guest'}"
