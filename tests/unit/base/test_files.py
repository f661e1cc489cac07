"""Files and folders are there whole or not at all."""

import multiprocessing
from pathlib import Path

import pytest

from cprlib.errors import EnvironmentFailure
from cprlib.files import locked, new_folder, write_json, write_text

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
