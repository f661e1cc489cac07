"""Results folders: one for each run, for their owner alone, with a link to the newest that always works."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cprlib.errors import EnvironmentFailure, ExitStatus, UsageError
from cprlib.report.build_report import judge_results
from cprlib.report.history import read_history
from cprlib.report.results_folder import (
    UNFINISHED,
    new_results_folder,
    publish,
    read_started,
    require_results,
    start_case,
    unfinished_reason,
)
from cprlib.report.summary import result_table
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case

OTHER_USER = 65534


def test_concurrent_runs_get_their_own_folders(tmp_path: Path) -> None:
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


def test_second_case_of_an_id_gets_its_own_folder(tmp_path: Path) -> None:
    assert start_case(tmp_path, "a").name == "a"
    assert start_case(tmp_path, "a").name == "a-2"


@pytest.mark.parametrize("case_id", ["", "..", "a/b", "-rf", "a b", "x" * 121, "a\n"])
def test_ids_that_are_no_folder_names_are_refused(tmp_path: Path, case_id: str) -> None:
    with pytest.raises(UsageError):
        start_case(tmp_path, case_id)


@pytest.fixture
def other_user() -> Iterator[None]:
    """What another user than root may read."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(OTHER_USER)
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("other_user")
@pytest.mark.parametrize("path", ["results", "results/cases"])
def test_results_of_another_user_are_an_environment_failure(path: str) -> None:
    with tempfile.TemporaryDirectory() as top:
        (folder := Path(top, "results")).mkdir()
        folder.chmod(0)
        with pytest.raises(EnvironmentFailure, match="Permission denied"):
            require_results(Path(top, path))
        folder.chmod(0o700)


@pytest.mark.usefixtures("other_user")
def test_run_of_another_user_is_a_line_of_the_history() -> None:
    with tempfile.TemporaryDirectory() as top:
        (folder := Path(top, "2026-01-31T08-00-00Z")).mkdir()
        folder.chmod(0)
        (run,) = read_history(Path(top)).runs
        assert "Permission denied" in run.problem
        folder.chmod(0o700)


def test_started_is_read_back(tmp_path: Path) -> None:
    started = read_started(start_case(tmp_path, "a", test="t", title="T", mechanism=Mechanism.CPR))
    assert (started.id, started.test, started.title, started.mechanism) == ("a", "t", "T", Mechanism.CPR)
    assert started.started_ns


def test_run_is_unfinished_until_it_is_published(tmp_path: Path) -> None:
    folder = new_results_folder(tmp_path)
    assert (folder / UNFINISHED).stat().st_mode & 0o777 == 0o600
    assert unfinished_reason(folder) == ""  # the run itself writes a report
    publish(folder)
    assert not (folder / UNFINISHED).exists()
    assert unfinished_reason(folder) == ""


def test_run_of_another_process_is_in_progress_or_interrupted(tmp_path: Path) -> None:
    make = "import sys; from pathlib import Path; from cprlib.report.results_folder import new_results_folder\n"
    make += "print(new_results_folder(Path(sys.argv[1])), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", make, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        assert f"still in progress (process {other.pid})" in unfinished_reason(folder)
        other.kill()
        other.wait()
    assert "was interrupted" in unfinished_reason(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "started": 0, "boot": "x"}'])
def test_broken_unfinished_json_or_another_boot_means_interrupted(tmp_path: Path, text: str) -> None:
    (tmp_path / UNFINISHED).write_text(text)
    assert "was interrupted" in unfinished_reason(tmp_path)


def test_interrupted_run_does_not_pass(tmp_path: Path) -> None:
    good_case().write(start_case(tmp_path, "a"))
    assert judge_results(tmp_path, load_policy("default")).exit_status == ExitStatus.PASS
    (tmp_path / UNFINISHED).write_text("{}")
    report = judge_results(tmp_path, load_policy("default"))
    assert report.exit_status == ExitStatus.INCONCLUSIVE
    assert "was interrupted" in result_table(report)
