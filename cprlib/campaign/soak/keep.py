"""Folders of cases that did not pass: kept, but no more than so many, and no more bytes than so many."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.one_test import give_place
from cprlib.campaign.soak.record import CaseRow
from cprlib.campaign.soak.resources import MIB, disk_used

KEPT = "kept"
WORTH = {  # a folder of more worth takes the place of one of less
    CellOutcome.DETECTED: 3,
    CellOutcome.CRASHED: 2,
    CellOutcome.INCONCLUSIVE: 1,
}


@dataclass(frozen=True, slots=True)
class Keep:
    """The folders that are kept.

    :param folder: of the soak.
    :param most: folders. :param most_mib: that they hold together.
    """

    folder: Path
    most: int
    most_mib: int

    def add(self, aside: Path, row: CaseRow, known: Mapping[str, CellOutcome]) -> bool:
        """Keep the folder of a case, or throw it away.

        :param aside: where it is.
        :param known: what came of the cases whose folders are kept, by :attr:`CaseRow.folder`.
        :returns: whether it is kept.
        :raises EnvironmentFailure: it cannot be given its place.
        """
        worth = _worth(row)
        size = disk_used(aside)
        room = self.most_mib * MIB
        there = sorted((self.folder / KEPT).glob("*/"))
        sizes = {path: disk_used(path) for path in there}
        # what is worth less goes first, and of that the newest: the first of a kind tells most
        lesser = sorted(
            (path for path in there if self._worth_of(path, known) < worth),
            key=lambda path: (-self._worth_of(path, known), path.name),
        )
        while worth and (len(sizes) >= self.most or sum(sizes.values()) + size > room) and lesser:
            goes = lesser.pop()
            del sizes[goes]
            shutil.rmtree(goes, ignore_errors=True)
        if not worth or len(sizes) >= self.most or sum(sizes.values()) + size > room:
            shutil.rmtree(aside, ignore_errors=True)
            return False
        give_place(aside, self.folder / row.folder)
        return True

    def _worth_of(self, path: Path, known: Mapping[str, CellOutcome]) -> int:
        outcome = known.get(str(path.relative_to(self.folder)))
        return WORTH.get(outcome, 0) if outcome else 0  # of a case that is not known: cut off, run again


def _worth(row: CaseRow) -> int:
    return max(WORTH.get(row.outcome, 0), WORTH[CellOutcome.DETECTED] if row.left else 0)
