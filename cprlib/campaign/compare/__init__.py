"""Is QEMU B worse than QEMU A? Regression, improvement, no difference, or undecided."""

from __future__ import annotations

from dataclasses import dataclass

MIN_EFFECT = 0.15
MIN_EFFECT_MS = 5.0


@dataclass(frozen=True, slots=True)
class Effect:
    """The smallest difference that matters.

    :param ratio: part of A's value, 0.15 for 15 %.
    :param floor_ms: never less than this, which is about the floor of the instrument.
    """

    ratio: float = MIN_EFFECT
    floor_ms: float = MIN_EFFECT_MS

    def of(self, value_ms: float) -> float:
        """As a part of a value in ms."""
        return max(self.ratio, self.floor_ms / value_ms)
