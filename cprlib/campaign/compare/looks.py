"""When a comparison may look at its data. Each look may raise a false alarm, so the looks share one allowance.

Looks use up the allowance as the budget is used up (a spending function linear in time, Lan and DeMets 1983), and their
levels add up to it, which holds however the looks depend on each other. A look that could hardly decide anything is
left out; its share is kept for the next. Whether there is a look depends on time and number alone, never on what was
measured.
"""

from __future__ import annotations

from dataclasses import dataclass

ALARM = 0.01  # chance of a false alarm in one comparison of equals, over all looks, metrics and cases
ON_DURATIONS = 0.8  # part of it for durations; the rest is for counts
DOUBT = 0.05  # chance that an interval misses the true ratio, over all looks, for one metric


@dataclass(frozen=True, slots=True)
class Look:
    """What one look may use.

    :param share: of the whole allowance; 1 for a comparison that looks once.
    """

    share: float

    @property
    def durations(self) -> float:
        """One-sided level of the tests of durations, all together."""
        return ALARM * ON_DURATIONS * self.share

    @property
    def counts(self) -> float:
        """One-sided level of the tests of counts, all together."""
        return ALARM * (1 - ON_DURATIONS) * self.share

    @property
    def confidence(self) -> float:
        """Level of this look's intervals."""
        return 1 - DOUBT * self.share


ONCE = Look(1.0)


class Allowance:
    """The looks of one comparison.

    :param used: share that earlier looks had.
    """

    def __init__(self, used: float = 0.0) -> None:
        self.used = used

    def look(self, fraction: float, smallest_p: float, *, last: bool = False) -> Look | None:
        """The next look, None when it is too early for one.

        :param fraction: of the budget that is used up.
        :param smallest_p: no test of these data can give a smaller one, adjusted for their number.
        :param last: there will be no other.
        """
        share = (1.0 if last else min(1.0, fraction)) - self.used
        share = max(0.0, share)
        if not last and (share == 0 or smallest_p > ALARM * ON_DURATIONS * share / 2):
            return None
        self.used += share
        return Look(share)
