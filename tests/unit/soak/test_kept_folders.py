"""Folders of cases that did not pass are kept within limits, the most important ones first."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.campaign.outcome import JobOutcome
from cprlib.campaign.soak.jobs import KeptFolders
from cprlib.campaign.soak.result import KEPT, SoakCase
from tests.unit.soak.samples import case as make_case

pytestmark = pytest.mark.fast


class Keeper:
    def __init__(self, folder: Path, most: int = 3, most_mib: int = 100) -> None:
        self.folder = folder
        self.kept = KeptFolders(folder, most, most_mib)

    def add(self, number: int, outcome: JobOutcome, size: int = 10, **more: object) -> bool:
        temporary = self.folder / ".partial" / str(number)
        temporary.mkdir(parents=True)
        (temporary / "data").write_bytes(some_bytes(size))
        case: SoakCase = make_case(number, outcome, **more)
        kept = self.kept.add(temporary, case)
        assert not temporary.exists()
        return kept

    @property
    def there(self) -> list[int]:
        return sorted(int(path.name.split("-")[0]) for path in (self.folder / KEPT).glob("*"))


def some_bytes(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + b"x" * (size % 256)


def test_limit_of_folders_keeps_the_first(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    assert [keeper.add(number, JobOutcome.FAILED) for number in range(1, 6)] == [True] * 3 + [False] * 2
    assert keeper.there == [1, 2, 3]


def test_failure_replaces_a_crash_or_an_inconclusive_case(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    outcomes = (JobOutcome.INCONCLUSIVE, JobOutcome.CRASHED, JobOutcome.INCONCLUSIVE)
    assert all(keeper.add(number, outcome) for number, outcome in enumerate(outcomes, 1))
    assert keeper.add(4, JobOutcome.FAILED)
    assert keeper.there == [1, 2, 4]  # the newer of the two inconclusive ones went
    assert keeper.add(5, JobOutcome.FAILED)
    assert keeper.there == [2, 4, 5]
    assert keeper.add(6, JobOutcome.FAILED)
    assert not keeper.add(7, JobOutcome.FAILED)
    assert not keeper.add(8, JobOutcome.CRASHED)
    assert keeper.there == [4, 5, 6]


def test_limit_of_size(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, most=100, most_mib=2)
    assert keeper.add(1, JobOutcome.FAILED, 900 * 1024)
    assert keeper.add(2, JobOutcome.INCONCLUSIVE, 900 * 1024)
    assert keeper.add(3, JobOutcome.FAILED, 900 * 1024)
    assert not keeper.add(4, JobOutcome.FAILED, 900 * 1024)
    assert keeper.there == [1, 3]


def test_folder_that_is_too_large_anyway_replaces_nothing(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, most=100, most_mib=2)
    assert keeper.add(1, JobOutcome.FAILED, 900 * 1024)
    assert keeper.add(2, JobOutcome.INCONCLUSIVE, 900 * 1024)
    assert not keeper.add(3, JobOutcome.FAILED, 1500 * 1024)
    assert keeper.there == [1, 2]


def test_limit_of_zero_keeps_nothing(tmp_path: Path) -> None:
    assert not Keeper(tmp_path, most=0).add(1, JobOutcome.FAILED)


@pytest.mark.parametrize("outcome", [JobOutcome.PASSED, JobOutcome.SKIPPED])
def test_passed_case_is_kept_only_when_it_left_something(tmp_path: Path, outcome: JobOutcome) -> None:
    keeper = Keeper(tmp_path)
    assert not keeper.add(1, outcome)
    assert keeper.add(2, outcome, left=("1234 qemu",))
