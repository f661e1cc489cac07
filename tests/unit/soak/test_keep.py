"""Folders of cases that did not pass are kept within bounds, and those that tell most stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.soak.keep import KEPT, Keep
from cprlib.campaign.soak.record import CaseRow
from tests.unit.soak.samples import row


class Keeper:
    def __init__(self, folder: Path, most: int = 3, most_mib: int = 100) -> None:
        self.folder = folder
        self.keep = Keep(folder, most, most_mib)
        self.known: dict[str, CellOutcome] = {}

    def add(self, number: int, outcome: CellOutcome, byte_count: int = 10, **more: object) -> bool:
        aside = self.folder / ".aside" / str(number)
        aside.mkdir(parents=True)
        (aside / "data").write_bytes(os_urandom(byte_count))
        case: CaseRow = row(number, outcome, **more)
        kept = self.keep.add(aside, case, self.known)
        self.known[case.folder] = outcome
        assert not aside.exists()
        return kept

    @property
    def there(self) -> list[int]:
        return sorted(int(path.name.split("-")[0]) for path in (self.folder / KEPT).glob("*"))


def os_urandom(byte_count: int) -> bytes:
    return bytes(range(256)) * (byte_count // 256) + b"x" * (byte_count % 256)


def test_no_more_than_so_many_are_kept_and_the_first_stay(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    assert [keeper.add(number, CellOutcome.DETECTED) for number in range(1, 6)] == [True] * 3 + [False] * 2
    assert keeper.there == [1, 2, 3]


def test_failure_takes_the_place_of_what_tells_less(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    outcomes = (CellOutcome.INCONCLUSIVE, CellOutcome.CRASHED, CellOutcome.INCONCLUSIVE)
    assert all(keeper.add(number, outcome) for number, outcome in enumerate(outcomes, 1))
    assert keeper.add(4, CellOutcome.DETECTED)
    assert keeper.there == [1, 2, 4]  # the newer of the two inconclusive ones went
    assert keeper.add(5, CellOutcome.DETECTED)
    assert keeper.there == [2, 4, 5]
    assert keeper.add(6, CellOutcome.DETECTED)
    assert not keeper.add(7, CellOutcome.DETECTED)
    assert not keeper.add(8, CellOutcome.CRASHED)
    assert keeper.there == [4, 5, 6]


def test_no_more_bytes_than_so_many_are_kept(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, most=100, most_mib=2)
    assert keeper.add(1, CellOutcome.DETECTED, 900 * 1024)
    assert keeper.add(2, CellOutcome.INCONCLUSIVE, 900 * 1024)
    assert keeper.add(3, CellOutcome.DETECTED, 900 * 1024)
    assert not keeper.add(4, CellOutcome.DETECTED, 900 * 1024)
    assert keeper.there == [1, 3]


def test_nothing_may_be_kept(tmp_path: Path) -> None:
    assert not Keeper(tmp_path, most=0).add(1, CellOutcome.DETECTED)


@pytest.mark.parametrize("outcome", [CellOutcome.PASSED, CellOutcome.SKIPPED])
def test_passed_case_is_kept_only_when_it_left_something(tmp_path: Path, outcome: CellOutcome) -> None:
    keeper = Keeper(tmp_path)
    assert not keeper.add(1, outcome)
    assert keeper.add(2, outcome, left=("1234 qemu",))
