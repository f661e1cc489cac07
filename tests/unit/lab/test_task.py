"""Messages of a task reach the job; a lost lab is reported."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cprlib.errors import LabLost
from cprlib.files import project_folder
from cprlib.lab import task
from cprlib.lab.engine import Attempt, LabCommand, LabStreams
from cprlib.lab.task import LONGEST_TEST, TaskSpec, run_task
from cprlib.testing.live_update_test import LiveUpdateTest

pytestmark = pytest.mark.fast

STARTED = b'{"status": "started", "time": 1.0}\n'
FINISHED = b'{"status": "finished", "result": "pass", "time": 2.0}\n'
FAILED = FINISHED.replace(b"pass", b"fail")


Part = bytes | str | LabLost


class ScriptedEngine:
    """Each attempt plays one script: bytes of standard output, Latin-1 text of standard error, or a LabLost."""

    leaves = ("half.pcap",)  # in the results folder, when the lab is lost

    def __init__(self, scripts: list[list[Part]], status: int = 0) -> None:
        self.scripts = scripts
        self.status = status

    def attempt(self, command: LabCommand, streams: LabStreams) -> Attempt:
        streams.confined({"landlock": 3, "memory": "private tmpfs"})
        for part in self.scripts.pop(0):
            if isinstance(part, LabLost):
                assert command.results is not None
                for name in self.leaves:
                    (command.results / name).write_text("half")
                raise part
            if isinstance(part, str):
                streams.stderr(part.encode("latin-1"))
            else:
                streams.stdout(part)
        return Attempt(self.status, 5.0)


class Job:
    """The job's status server."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "status"
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(self.path))
        self.server.listen()
        self.results = folder / "results"
        self.results.mkdir()

    def messages(self) -> list[dict[str, Any]]:
        connection, _ = self.server.accept()
        with connection, connection.makefile("rb") as stream:
            return [json.loads(line) for line in stream]

    def spec(self) -> TaskSpec:
        return TaskSpec("scripted", {}, 64, str(self.results), "1-a.py:A.test", "job", [str(self.path)], [])


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    made.server.close()


def play(job: Job, monkeypatch: pytest.MonkeyPatch, *scripts: list[Part], status: int = 0) -> list[dict[str, Any]]:
    monkeypatch.setattr(task, "engine_of_files", lambda _: ScriptedEngine(list(scripts), status))
    run_task(job.spec())
    return job.messages()


def text_of(messages: list[dict[str, Any]], kind: str) -> str:
    """What the messages of a kind say; Avocado decodes each of them alone, and ends at an error."""
    logs = [message["log"]["__base64_encoded__"] for message in messages if message.get("type") == kind]
    return "".join(base64.b64decode(log).decode() for log in logs)


def test_messages_are_relayed_in_order_with_the_task_id(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = play(job, monkeypatch, [STARTED + b'{"status": "running", "ty', b'pe": "log"}\n', b"noise\n" + FINISHED])
    assert [message["status"] for message in messages] == ["started", "running", "running", "finished"]
    assert messages[0]["output_dir"] == str(job.results)
    assert messages[2]["type"] == "stdout"
    assert text_of(messages, "stdout") == "noise\n"
    assert {(message["id"], message["job_id"]) for message in messages} == {("1-a.py:A.test", "job")}
    times = [message["time"] for message in messages]
    assert times == sorted(set(times))


def test_test_process_that_dies_is_an_error(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = play(job, monkeypatch, [STARTED], status=-11)
    assert messages[-1]["result"] == "error"
    assert "without a result (status -11)" in messages[-1]["fail_reason"]


def test_lost_lab_is_recorded_and_its_files_are_moved(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = play(job, monkeypatch, [STARTED, LabLost("run", "died")], [STARTED, FINISHED])
    assert messages[-1]["result"] == "pass"
    assert sum(message["status"] == "started" for message in messages) == 1
    record = json.loads((job.results / "lab.json").read_text())
    assert (record["attempts"], record["lost"]) == (2, ["died"])
    assert (job.results / "lost-1" / "half.pcap").exists()
    assert not (job.results / "half.pcap").exists()


def test_two_lost_labs_finish_the_task_as_lab_lost(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = play(job, monkeypatch, [LabLost("run", "died")], [LabLost("run", "died again")])
    assert (messages[-1]["status"], messages[-1]["result"]) == ("finished", "error")
    assert messages[-1]["fail_class"] == "LabLost"
    assert "died again" in messages[-1]["fail_reason"]
    record = json.loads((job.results / "lab.json").read_text())
    expected = {"engine": "scripted", "returncode": None, "attempts": 2, "lost": ["died", "died again"]}
    assert record == {**expected, "layers": {"landlock": 3}}


def test_result_is_the_last_message(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Avocado waits forever for the result of a task whose latest message is another one."""
    messages = play(job, monkeypatch, [STARTED, FINISHED, "late words", b"noise\n"])
    assert [message["status"] for message in messages] == ["started", "running", "running", "finished"]
    assert messages[-1]["time"] == max(message["time"] for message in messages)
    assert (text_of(messages, "stderr"), text_of(messages, "stdout")) == ("late words", "noise\n")


def test_lab_that_dies_after_the_result_is_not_repeated(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = play(job, monkeypatch, [STARTED, FINISHED, LabLost("run", "died")], [STARTED, FAILED])
    assert [message["result"] for message in messages if message["status"] == "finished"] == ["pass"]
    assert (job.results / "half.pcap").exists()
    record = json.loads((job.results / "lab.json").read_text())
    assert (record["attempts"], record["lost"]) == (1, ["died"])


def test_lab_that_takes_its_results_along_is_repeated(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual machine sends its results at the end."""
    monkeypatch.setattr(ScriptedEngine, "leaves", ())
    messages = play(job, monkeypatch, [STARTED, FINISHED, LabLost("run", "died")], [STARTED, FAILED])
    assert [message["result"] for message in messages if message["status"] == "finished"] == ["fail"]


@pytest.mark.parametrize(
    ("parts", "text"),
    [(("bad \xff byte\n",), "bad \N{REPLACEMENT CHARACTER} byte\n"), (("\xc3", "\xbcber\n"), "\u00fcber\n")],
)
def test_text_that_is_no_utf_8_is_decoded(
    job: Job, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], text: str
) -> None:
    messages = play(job, monkeypatch, [STARTED, *parts, FINISHED])
    assert text_of(messages, "stderr") == text


def test_limit_is_twice_that_of_the_longest_test() -> None:
    limits = [
        int(number)
        for path in (project_folder() / "tests" / "functional").glob("*.py")
        for number in re.findall(r"^    timeout = (\d+)$", path.read_text(), re.MULTILINE)
    ]
    assert limits
    assert max([LiveUpdateTest.timeout, *limits]) * 2 == LONGEST_TEST
