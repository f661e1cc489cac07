"""What is registered for clean-up is removed, whether the owner ends in order or is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cprlib.cleanup import USERS_TMPDIR, CleanupProcess, temporary_environment, temporary_folder, users_tmpdir
from cprlib.deadline import Deadline
from cprlib.errors import EnvironmentFailure
from tests.unit.base.test_process import alive

OWNER = """
import subprocess, sys, time
from pathlib import Path
from cprlib.cleanup import CleanupProcess
with CleanupProcess() as cleanup:
    folder = cleanup.folder(base=Path(sys.argv[1]))
    (folder / "below").mkdir()
    (folder / "below" / "file").write_text("x")
    cleanup.instance(Path(sys.argv[1]) / "instance")
    (Path(sys.argv[1]) / "instance").mkdir()
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    cleanup.group(child.pid)
    {more}
    print(child.pid, flush=True)
    time.sleep(60)
"""


def gone(path: Path) -> bool:
    return not os.path.lexists(path)


def killed_owner(place: Path, more: str = "pass") -> int:
    """Start an owner and kill it; returns the process that it had registered."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(more=more), str(place)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    assert len(list(place.iterdir())) == 2
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    return child


def test_a_killed_owner_leaves_neither_folder_nor_group_nor_instance(tmp_path: Path) -> None:
    child = killed_owner(tmp_path)
    Deadline(10, "the folders to go").poll(lambda: not list(tmp_path.iterdir()))
    Deadline(10, "the group to end").poll(lambda: not alive(child))


@pytest.mark.parametrize("character", ["\n", "\v", "\f", "\x85", "\u2028", "\udcff"])
def test_a_folder_with_any_name_is_removed_and_no_other_one(tmp_path: Path, character: str) -> None:
    (tmp_path / "data").mkdir()
    strange = tmp_path / f"data{character}folder x"
    strange.mkdir()
    with CleanupProcess() as cleanup:
        made = cleanup.folder(base=strange)
    assert gone(made)
    assert (tmp_path / "data").is_dir()


def test_a_request_that_was_cut_off_is_no_request(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with CleanupProcess() as cleanup:
        assert cleanup._process
        assert cleanup._process.stdin
        cleanup._process.stdin.write(f"folder {folder}".encode())
    assert folder.is_dir()


def test_a_group_that_was_unregistered_survives(tmp_path: Path) -> None:
    child = killed_owner(tmp_path, "cleanup.group(0)")
    try:
        Deadline(10, "the folders to go").poll(lambda: not list(tmp_path.iterdir()))
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_an_orderly_end_removes_the_folder_before_it_returns() -> None:
    with temporary_folder() as folder:
        (folder / "file").write_text("x")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with CleanupProcess() as cleanup, pytest.raises(EnvironmentFailure, match="set TMPDIR"):
        cleanup.folder(base=tmp_path / "none")


def test_a_closed_cleanup_process_accepts_nothing(tmp_path: Path) -> None:
    with CleanupProcess() as cleanup:
        pass
    with pytest.raises(EnvironmentFailure, match="not open"):
        cleanup.folder(base=tmp_path)


def test_a_childs_temporary_files_are_removed_and_the_users_choice_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with CleanupProcess() as cleanup:
        given = temporary_environment(cleanup)
        assert Path(given["TMPDIR"]).is_dir()
        assert len(given["TMPDIR"]) < 70  # a socket's path has 107 bytes, and Avocado makes its two folders down
        monkeypatch.setenv("TMPDIR", given["TMPDIR"])
        monkeypatch.setenv(USERS_TMPDIR, given[USERS_TMPDIR])
        assert users_tmpdir() == str(tmp_path)
    assert gone(Path(given["TMPDIR"]))
