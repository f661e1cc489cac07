"""A runner that dies is reported, so that Avocado does not wait forever."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cprlib.deadline import Deadline
from cprlib.lab.avocado_run import SuiteRun, run_avocado
from cprlib.lab.task import report_lost
from tests.unit.base.test_process import alive

SUICIDE = """
import os, signal
from avocado import Test

class Dying(Test):
    def test_kills_its_runner(self):
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
"""
LONG = """
import os, sys, time
from avocado import Test
from cprlib.testing.live_update_test import LiveUpdateTest

class Sleeping(LiveUpdateTest):
    def setUp(self):
        try:
            super().setUp()
        except Exception:
            pass  # nothing is built here, and nothing is needed

    def test_sleeps(self):
        open({note!r}, "w").write(f"{{os.getpid()}} {{os.getppid()}}")
        time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        made.listen(1)
        yield made


def task(place: Path) -> Any:
    service = SimpleNamespace(uri=str(place / "s"))
    return SimpleNamespace(identifier="1-x", job_id="j", status_services=[service])


def test_killed_runner_finishes_its_task_as_an_error(tmp_path: Path, server: socket.socket) -> None:
    report_lost(task(tmp_path), -signal.SIGKILL)
    connection = server.accept()[0]
    with connection, connection.makefile() as lines:
        message = json.loads(lines.readline())
    assert (message["id"], message["job_id"], message["status"], message["result"]) == ("1-x", "j", "finished", "error")
    assert "killed by SIGKILL" in message["fail_reason"]


def test_successful_runner_is_not_reported(tmp_path: Path, server: socket.socket) -> None:
    report_lost(task(tmp_path), 0)
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()


def test_ended_job_is_no_error(tmp_path: Path) -> None:
    report_lost(task(tmp_path), 1)


def test_avocado_continues_when_a_runner_was_killed(tmp_path: Path) -> None:
    test = tmp_path / "test_dying.py"
    test.write_text(SUICIDE)
    with (tmp_path / "log").open("w") as log:
        run_avocado(SuiteRun(tmp_path, [str(test)], {}), log)
    job = next(tmp_path.glob("avocado/job-*/results.json"))
    (result,) = json.loads(job.read_text())["tests"]
    assert result["status"] == "ERROR"
    assert "killed by SIGKILL" in result["fail_reason"]


@pytest.mark.parametrize("victim", ["harness", "runner"])
def test_no_test_outlives_its_runner_or_the_harness(tmp_path: Path, victim: str) -> None:
    test, note = tmp_path / "test_long.py", tmp_path / "pids"
    test.write_text(LONG.format(note=str(note)))
    harness = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cprlib.lab.avocado_run import SuiteRun, run_avocado\n"
        "run_avocado(SuiteRun(Path(sys.argv[1]), [sys.argv[2]], {}), sys.stdout)\n"
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", harness, str(tmp_path), str(test)],
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    Deadline(30, "the test's start").poll(lambda: note.exists() and note.read_text())
    tested, runner = (int(word) for word in note.read_text().split())
    os.kill(process.pid if victim == "harness" else runner, signal.SIGKILL)
    Deadline(10, "the test's end").poll(lambda: not (alive(tested) or alive(runner)))
    process.wait(timeout=30)
    Deadline(10, "the temporary folder to go").poll(lambda: not list(tmp_path.glob("cprlib-*")))
