"""Results folders: never shared by two runs, never without a link that works, for their owner alone."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import pytest

from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.report.results_folder import new_results_folder, publish, read_started, start_case
from cprlib.verdict.evidence import Mechanism


def test_runs_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_results_folder(tmp_path), range(24)))
    assert len(set(folders)) == 24
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)


def test_latest_points_to_the_run_and_moves(tmp_path: Path) -> None:
    for _ in range(2):
        folder = new_results_folder(tmp_path)
        link = publish(folder)
        assert link.resolve() == folder.resolve()
        assert not link.readlink().is_absolute()
    assert not list(tmp_path.glob(".latest*"))


def test_latest_that_is_a_folder_is_refused_and_nothing_left(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(EnvironmentFailure, match="move"):
        publish(new_results_folder(tmp_path))
    assert not list(tmp_path.glob(".latest*"))


def test_folder_that_cannot_be_made_is_an_environment_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure):
        new_results_folder(tmp_path / "file")


def test_second_case_of_an_id_gets_a_name_of_its_own(tmp_path: Path) -> None:
    assert start_case(tmp_path, "a").name == "a"
    assert start_case(tmp_path, "a").name == "a-2"


@pytest.mark.parametrize("case_id", ["", "..", "a/b", "-rf", "a b", "x" * 121, "a\n"])
def test_ids_that_are_no_folder_names_are_refused(tmp_path: Path, case_id: str) -> None:
    with pytest.raises(UsageError):
        start_case(tmp_path, case_id)


def test_started_is_read_back(tmp_path: Path) -> None:
    started = read_started(start_case(tmp_path, "a", test="t", title="T", mechanism=Mechanism.CPR))
    assert (started.id, started.test, started.title, started.mechanism) == ("a", "t", "T", Mechanism.CPR)
    assert started.started_ns
