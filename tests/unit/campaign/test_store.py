"""The folder of a session: one process at a time, results complete or absent, older versions refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cprlib.campaign.store import PARTIAL, REQUEST_FILE, STORE_VERSION, Store, move_into_place
from cprlib.errors import UsageError
from cprlib.files import project_folder

HOLDER = """
import sys, time
from pathlib import Path
from tests.unit.campaign.test_store import STORE
with STORE.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@dataclass(frozen=True)
class Request:
    """A request of a made-up command."""

    name: str
    started_ns: int = 0
    version: int = STORE_VERSION


STORE = Store("prove", Request)


def test_two_processes_cannot_work_on_a_session_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project_folder())}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match="another cprlib prove runs in it"), STORE.locked(tmp_path):
            pass
        child.send_signal(signal.SIGKILL)
    (tmp_path / PARTIAL / "half").mkdir(parents=True)
    with STORE.locked(tmp_path) as partial:
        assert not partial.exists()
    with STORE.locked(tmp_path):
        pass


def test_refused_session_keeps_what_the_other_process_runs(tmp_path: Path) -> None:
    with STORE.locked(tmp_path) as partial:
        (partial / "job").mkdir(parents=True)
        with pytest.raises(UsageError), STORE.locked(tmp_path):
            pass
        assert (partial / "job").is_dir()


def test_stored_folder_replaces_an_older_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        (tmp_path / "temporary").mkdir()
        (tmp_path / "temporary" / text).touch()
        move_into_place(tmp_path / "temporary", tmp_path / "results" / "x")
    assert [path.name for path in (tmp_path / "results" / "x").iterdir()] == ["new"]


def test_latest_session_is_the_one_that_began_last(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no session in"):
        STORE.latest(tmp_path / "none")
    request = Request("first", 2)
    first = STORE.begin(tmp_path, request)
    STORE.begin(tmp_path, replace(request, started_ns=1))
    (tmp_path / "latest").symlink_to(first.name)
    assert STORE.latest(tmp_path) == first
    assert STORE.read(first) == request


@pytest.mark.parametrize("text", ["", "[]", '{"name": 10}', '{"name": "x", "version": 1}'])
def test_broken_request_is_refused(tmp_path: Path, text: str) -> None:
    folder = STORE.begin(tmp_path, Request("x"))
    (folder / REQUEST_FILE).write_text(text)
    with pytest.raises(UsageError, match=r"session\.json"):
        STORE.read(STORE.latest(tmp_path))


def test_session_of_an_older_version_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "2026-01-01T00-00-00Z"
    folder.mkdir()
    (folder / REQUEST_FILE).write_text('{"started_ns": 5, "version": 1}')
    with pytest.raises(UsageError, match="store version 1, this program reads 4") as raised:
        STORE.read(STORE.latest(tmp_path))
    assert "\n" not in raised.value.one_line()
