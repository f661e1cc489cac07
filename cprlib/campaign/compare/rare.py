"""Rare events, as a packet lost in one update of ten: exact tests on counts, and how many updates see how rare ones."""

from __future__ import annotations

import math

from scipy import stats

WORTH_SEEING = 0.1  # a loss in one update of ten must not go unseen
SURE = 0.95


def more_often(a_affected: int, a_seen: int, b_affected: int, b_seen: int) -> float:
    """One-sided p of "no more often in B" (Fisher's exact test)."""
    table = [[b_affected, b_seen - b_affected], [a_affected, a_seen - a_affected]]
    return float(stats.fisher_exact(table, alternative="greater").pvalue)


def at_most(affected: int, updates: int) -> float:
    """Upper end of the share of updates that are affected, with 95 % confidence (Clopper and Pearson, one-sided)."""
    if not updates:
        return 1.0
    return float(stats.binomtest(affected, updates, alternative="less").proportion_ci(SURE, method="exact").high)


def chance_to_see(updates: int, share: float = WORTH_SEEING) -> float:
    """The chance that among so many updates at least one is affected."""
    return 1 - (1 - share) ** updates


def updates_needed(share: float = WORTH_SEEING, chance: float = SURE) -> int:
    """So many updates see an event of this share with this chance: 29 for one in ten and 95 %."""
    return math.ceil(math.log(1 - chance) / math.log(1 - share))
