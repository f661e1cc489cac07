"""What a comparison can find: changes of durations and counts, and what the policy refuses."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cprlib.campaign.compare.chain import Chain, Metric

MIN_EFFECT = 0.15
MIN_EFFECT_MS = 5.0


class Change(enum.StrEnum):
    """What became of a property from A to B."""

    REGRESS = "regress"
    IMPROVE = "improve"
    SAME = "no difference"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Effect:
    """The size of effect that matters.

    :param ratio: part of A's value, 0.15 for 15 %.
    :param floor_ms: and never less than this; the instrument's own floor is about as high.
    """

    ratio: float = MIN_EFFECT
    floor_ms: float = MIN_EFFECT_MS

    def of(self, middle_ms: float) -> float:
        """As a part of a value in ms."""
        return max(self.ratio, self.floor_ms / middle_ms)


@dataclass(frozen=True, slots=True)
class Sample:
    """Chains of one case.

    :param a, b: where paired, those of the same place were run side by side.
    """

    case: str
    a: tuple[Chain, ...]
    b: tuple[Chain, ...]
    paired: bool


@dataclass(frozen=True, slots=True)
class DurationResult:
    """A duration of A against B.

    :param a_values, b_values: ms, median of each chain; in pairs where the sample was.
    :param a, b: ms, median of all updates.
    :param ratio: B/A, geometric mean over the chains; :param low, high: its interval, None with too few chains.
    :param worse, better: one-sided p, adjusted for the number of tests.
    :param effect: the size of effect that matters, as a part of A.
    :param noise: how far a chain is from another of its round for no reason, or from another of A where there are no
        rounds, as a part of A; None with fewer than two.
    :param drift: how far A's chains scatter over the session, which pairs have in common; None without rounds.
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
    drift: float | None
    change: Change


@dataclass(frozen=True, slots=True)
class CountResult:
    """Packets lost, doubled or reordered.

    :param a, b: packets; :param a_affected, b_affected: updates in which there was any.
    :param worse: one-sided p that guests with such updates are more frequent with B, adjusted for the number of tests.
    :param at_most: share of B's updates that are affected at most, with 95 % confidence.
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
class Accusation:
    """What the policy refuses in a chain, whatever statistics say.

    :param chains: in which it was seen; :param of: of how many.
    :param also_a: A's chains show the same property.
    """

    case: str
    text: str
    chains: int
    of: int
    also_a: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """What one look found."""

    durations: tuple[DurationResult, ...]
    counts: tuple[CountResult, ...]
    accusations: tuple[Accusation, ...]
    problems: tuple[str, ...]

    @property
    def regressions(self) -> tuple[str, ...]:
        """Each in a few words."""
        longer = [item for item in self.durations if item.change == Change.REGRESS]
        more = [item for item in self.counts if item.change == Change.REGRESS]
        return (
            *(self._named(item.case, item.text) for item in self.accusations if not item.also_a),
            *(self._named(item.case, f"{item.metric.label} {item.ratio:.2f} times A's") for item in longer),
            *(
                self._named(item.case, f"{item.metric.label} in {item.b_affected} of {item.b_updates} updates")
                for item in more
            ),
        )

    @property
    def undecided(self) -> tuple[str, ...]:
        """What is not known yet."""
        results: tuple[DurationResult | CountResult, ...] = (*self.durations, *self.counts)
        return tuple(self._named(item.case, item.metric.label) for item in results if item.change == Change.UNDECIDED)

    def _named(self, case: str, text: str) -> str:
        """With the case in front where there are several."""
        cases = {item.case for item in self.durations} | {item.case for item in self.accusations}
        return f"{case}: {text}" if len(cases) > 1 else text

    @property
    def change(self) -> Change:
        """All together: one regression is one, and nothing is the same as long as something is undecided."""
        if self.regressions:
            return Change.REGRESS
        if self.undecided or self.problems or not self.durations:
            return Change.UNDECIDED
        changes = {item.change for item in self.durations} | {item.change for item in self.counts}
        return Change.IMPROVE if Change.IMPROVE in changes else Change.SAME
