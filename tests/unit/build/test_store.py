"""The store has complete entries only, whatever happens while they are made."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cprlib.build import store
from cprlib.build.progress import Progress
from cprlib.errors import BuildFailed, EnvironmentFailure


def maker(text: str = "hello") -> Callable[[Path], None]:
    """Makes an entry of one file, one file in a folder, and a symbolic link."""

    def make(folder: Path) -> None:
        (folder / "bin").mkdir()
        (folder / "bin" / "tool").write_text(text)
        (folder / "note").write_text("note")
        (folder / "link").symlink_to("note")

    return make


class Noted(Progress):
    """Sets an event when a note is printed."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def note(self, text: str) -> None:
        assert not self._event.is_set(), f"printed twice: {text}"
        self._event.set()


def never(_folder: Path) -> None:
    pytest.fail("made although it was there")


def left_over() -> list[Path]:
    """Files of the store that are neither complete entries nor locks."""
    return [path for path in store.store_folder().glob("*/.*") if path.parent.name != ".locks"]


def test_entry_is_made_once() -> None:
    first = store.entry("thing", "k1", maker())
    assert (first / "bin" / "tool").read_text() == "hello"
    assert store.entry("thing", "k1", never) == first
    assert store.lookup("thing", "k1") == first
    assert store.lookup("thing", "k2") is None


@pytest.mark.parametrize("harm", ["cut", "missing", "altered", "no list", "cut list"])
def test_damaged_entry_is_made_again(harm: str) -> None:
    folder = store.entry("thing", "k1", maker())
    tool = folder / "bin" / "tool"
    if harm == "cut":
        os.truncate(tool, 2)
    elif harm == "missing":
        tool.unlink()
    elif harm == "altered":
        tool.write_text("HELLO")
    elif harm == "no list":
        (folder / store.LISTING).unlink()
    else:
        os.truncate(folder / store.LISTING, 20)
    assert store.lookup("thing", "k1") is None
    assert (store.entry("thing", "k1", maker("again")) / "bin" / "tool").read_text() == "again"


def test_copied_cache_is_valid(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.entry("thing", "k1", maker())
    shutil.copytree(cache, tmp_path / "copy", copy_function=shutil.copy, symlinks=True)  # new time stamps
    copied = tmp_path / "copy" / "store" / "thing" / "k1"
    os.utime(copied / "link", ns=(1, 1), follow_symlinks=False)
    monkeypatch.setenv("CPRLIB_CACHE", str(tmp_path / "copy"))
    assert store.lookup("thing", "k1") == copied


def test_link_to_another_file_is_a_change() -> None:
    link = store.entry("thing", "k1", maker()) / "link"
    status = link.lstat()
    link.unlink()
    link.symlink_to("evil")  # as long as before
    os.utime(link, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
    assert store.lookup("thing", "k1") is None


def test_entry_of_a_version_without_digests_of_links_is_complete() -> None:
    folder = store.entry("thing", "k1", maker())
    listing = json.loads((folder / store.LISTING).read_text())
    listing["link"][2] = ""
    (folder / store.LISTING).write_text(json.dumps(listing))
    assert store.lookup("thing", "k1") == folder


def test_damaged_entry_that_cannot_be_removed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    (store.entry("thing", "k1", maker()) / "note").write_text("damaged")
    monkeypatch.setattr(store, "_remove", lambda _path: None)  # files of another user
    with pytest.raises(EnvironmentFailure, match="incomplete"):
        store.entry("thing", "k1", maker())


@pytest.mark.parametrize("name", ["a folder", "a:b", "a'b"])
def test_path_that_builds_cannot_hold_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRLIB_CACHE", str(tmp_path / name))
    with pytest.raises(EnvironmentFailure, match="set CPRLIB_CACHE to a path without spaces"):
        store.entry("thing", "k1", maker())


@pytest.mark.parametrize("raised", [KeyboardInterrupt, BuildFailed("a", "b"), ValueError])
def test_failed_maker_leaves_nothing(raised: BaseException | type[BaseException]) -> None:
    def make(folder: Path) -> None:
        maker()(folder)
        raise raised

    with pytest.raises(BaseException):  # noqa: B017, PT011 - each of them
        store.entry("thing", "k1", make)
    assert store.lookup("thing", "k1") is None
    assert left_over() == []


def test_no_space_is_reported_in_one_line() -> None:
    def make(_folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(EnvironmentFailure, match=r"No space left on device.*free some space"):
        store.entry("thing", "k1", make)


def test_no_space_in_tool_output_is_recognised() -> None:
    def make(_folder: Path) -> None:
        raise BuildFailed("compile", "gcc: exit status 1", details="as: x.o: No space left on device")

    with pytest.raises(EnvironmentFailure, match=r"make .*thing/k1: No space left on device"):
        store.entry("thing", "k1", make)


@pytest.mark.parametrize("next_key", ["k1", "k2"])
def test_files_of_a_killed_maker_are_removed(next_key: str) -> None:
    script = (
        "import os, signal\n"
        "from cprlib.build import store\n"
        "def make(folder):\n"
        "    (folder / 'half').write_text('h')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.entry('thing', 'k1', make)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(left_over()) == 1
    assert store.lookup("thing", "k1") is None
    store.entry("thing", next_key, maker())  # the same entry, and any other one, cleans up
    assert left_over() == []


def test_two_makers_make_an_entry_once() -> None:
    made: list[int] = []
    begun, waited = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        made.append(1)
        begun.set()
        assert waited.wait(10)
        maker()(folder)

    first = threading.Thread(target=store.entry, args=("thing", "k1", slow))
    first.start()
    assert begun.wait(10)
    assert store.entry("thing", "k1", never, progress=Noted(waited), note="another run makes it").is_dir()
    first.join()
    assert made == [1]


def test_keys_of_different_inputs_differ(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("1")
    keys = {
        store.key_of(a="1"),
        store.key_of(a=1),
        store.key_of(a=None),
        store.key_of(b="1"),
        store.key_of(a="1", b=""),
        store.key_of(a=tmp_path / "f"),
        store.key_of(a=tmp_path),
    }
    assert len(keys) == 7
    before = store.key_of(a=tmp_path)
    (tmp_path / "f").rename(tmp_path / "g")
    assert store.key_of(a=tmp_path) != before
