"""Files and folders are there whole or not at all."""

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from cprlib.errors import EnvironmentFailure
from cprlib.files import cache_folder, locked, new_folder, write_json, write_text

pytestmark = pytest.mark.fast


def test_written_file_has_its_mode_and_no_neighbour(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "text", mode=0o600)
    assert (tmp_path / "a").read_text() == "text"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure, match="cannot write"):
        write_json(tmp_path / "file" / "below", {})


def test_folder_that_failed_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "entry") as temporary:
        (temporary / "part").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "entry") as temporary:
        (temporary / "part").write_text("x")
        assert not (tmp_path / "entry").exists()
    assert (tmp_path / "entry" / "part").read_text() == "x"


def test_second_maker_keeps_the_first_ones(tmp_path: Path) -> None:
    with new_folder(tmp_path / "entry") as temporary:
        (temporary / "part").write_text("second")
        (tmp_path / "entry").mkdir()
        (tmp_path / "entry" / "part").write_text("first")
    assert (tmp_path / "entry" / "part").read_text() == "first"


def _add(path: Path, lock: Path) -> None:
    for _ in range(50):
        with locked(lock):
            path.write_text(str(int(path.read_text()) + 1))


def test_lock_excludes_other_processes(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    workers = [multiprocessing.Process(target=_add, args=(counter, tmp_path / "lock")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter.read_text() == "150"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_lock_that_may_not_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(EnvironmentFailure, match=r"cannot lock .*CPRLIB_CACHE"), locked(tmp_path / "lock"):
        pass


def test_folders_of_the_cache_are_readable_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRLIB_CACHE", str(tmp_path / "private" / "cache"))
    before = os.umask(0o077)
    try:
        with locked(cache_folder() / "store" / ".locks" / "k"), new_folder(cache_folder() / "store" / "kind" / "k"):
            pass
    finally:
        os.umask(before)
    for name, mode in {"": 0o755, "store": 0o755, "store/kind": 0o755, "store/kind/k": 0o755, "..": 0o700}.items():
        assert (cache_folder() / name).stat().st_mode & 0o777 == mode, name


def test_relative_cache_is_a_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPRLIB_CACHE", "cache")
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CPRLIB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "xdg")
    assert cache_folder() == tmp_path / "xdg" / "cprlib"
