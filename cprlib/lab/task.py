"""The host side of one Avocado task in a lab: runs the lab and relays its messages to the status server of the job.

The spawner starts it as ``python -m cprlib.lab.task SPEC``, one process for each task, which ends with its lab.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from cprlib.errors import CprlibError, LabLost
from cprlib.files import write_json
from cprlib.lab.engine import ATTEMPTS, LabCommand, LabStreams, run_in_lab
from cprlib.lab.engines import engine_of_files
from cprlib.process import describe_status

LAB_FILE = "lab.json"
LONGEST_TEST = 2400.0  # seconds, scaled: twice the longest limit of a test, which ends the test itself
LAB_TMPDIR = "/tmp"  # noqa: S108 - in the memory of the lab
LAYERS = ("namespaces", "readonly", "landlock", "metadata_ignored")  # in the report of the launcher
FILES_OF_JOB = ("debug.log", "stdout", "stderr", "output", "whiteboard", LAB_FILE)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """The task, as JSON on the command line.

    :param files: of the engine, from :func:`cprlib.lab.engines.engine_files`.
    :param memory: of the lab in MiB.
    :param output_dir: folder of its results, the only one that the lab can write.
    :param arguments: those of Avocado's ``runnable-run``.
    """

    engine: str
    files: dict[str, Any]
    memory: int
    output_dir: str
    identifier: str
    job_id: str
    status_uris: list[str]
    arguments: list[str]


def status_connection(uri: str) -> socket.socket:
    """A connection to the status server of a job.

    :raises OSError: the server does not run.
    """
    if ":" in uri:
        host, port = uri.rsplit(":", 1)
        return socket.create_connection((host, int(port)))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(uri)
    return connection


class StatusClient:
    """Sends messages of one task to the status server of the job (Avocado: core/nrunner/task.py).

    The message that finishes the task is sent by :meth:`close`: when another one follows it, Avocado waits forever for
    the result.
    """

    def __init__(self, identifier: str, job_id: str, uris: Sequence[str]) -> None:
        self._identity = {"id": identifier, "job_id": job_id}
        self._sockets = [status_connection(uri) for uri in uris]
        self._last = 0.0
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}  # by kind of text
        self.result: dict[str, Any] | None = None  # the message that finishes the task

    def close(self) -> None:
        if self.result is not None:
            self._write(self.result)
        for connection in self._sockets:
            connection.close()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; of those that finish the task, the first one counts."""
        if message.get("status") == "finished":
            self.result = self.result or message
        else:
            self._write(message)

    def _write(self, message: dict[str, Any]) -> None:
        """Write a message with the id of the task and a time of the host; the server sorts by time."""
        self._last = max(time.monotonic(), self._last + 1e-6)
        line = json.dumps({**message, **self._identity, "time": self._last}).encode("ascii") + b"\n"
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # the end of the job kills this process
                connection.sendall(line)

    def text(self, kind: str, data: bytes) -> None:
        """Send text for a file of the task: ``log`` (debug.log), ``stdout`` or ``stderr``.

        :param data: may end within a character. What is no UTF-8 is replaced: Avocado ends at it, for all tests.
        """
        decoder = self._decoders.setdefault(kind, codecs.getincrementaldecoder("utf-8")("replace"))
        if text := decoder.decode(data):
            encoded = {"__base64_encoded__": base64.b64encode(text.encode()).decode("ascii")}
            self.send({"status": "running", "type": kind, "log": encoded, "encoding": "utf-8"})

    def log(self, line: str) -> None:
        self.text("log", f"{time.strftime('%Y-%m-%d %H:%M:%S')} lab: {line}".encode())

    def error(self, reason: str, error_class: str) -> None:
        self.send({"status": "finished", "result": "error", "fail_reason": reason, "fail_class": error_class})


def report_lost(task: Any, returncode: int | None) -> None:
    """Finish a task as an error when its runner was killed or failed; Avocado would wait for its result forever.

    :param task: Avocado's.
    :param returncode: the runner's exit status; one that exits with 0 has sent its result.
    """
    if not returncode:
        return
    uris = [service.uri for service in task.status_services]
    with (
        contextlib.suppress(OSError),
        contextlib.closing(StatusClient(str(task.identifier), task.job_id, uris)) as client,
    ):
        client.error(f"the test's runner ended with {describe_status(returncode)} before the test did", "RunnerLost")


class Relay:
    """Turns output of the command in the lab into messages."""

    def __init__(self, client: StatusClient, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.reasons: list[str] = []  # why labs were lost
        self.layers: Mapping[str, Any] = {}  # that protect the host from the lab
        self._part = b""

    def messages(self, data: bytes) -> None:
        """Handle standard output of the runner: one JSON message per line."""
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                status = message["status"]
            except (ValueError, KeyError, TypeError):
                self.client.text("stdout", line + b"\n")
                continue
            if status != "started":  # reported before the lab was started
                self.client.send(message)

    def errors(self, data: bytes) -> None:
        """Handle standard error of the runner and of children of the test."""
        self.client.text("stderr", data)

    def confined(self, report: Mapping[str, Any]) -> None:
        """Keep the layers that protect the host."""
        self.layers = {name: report[name] for name in LAYERS if name in report}

    def lost(self, attempt: int, error: LabLost) -> None:
        """Move results of a dead lab to ``lost-N``, so that the next lab starts clean.

        :raises LabLost: none is to start: the test has ended, and its evidence is here.
        """
        self._part = b""
        self.reasons.append(error.happened)
        self.client.log(f"attempt {attempt} of {ATTEMPTS}: {error.one_line()}\n{error.details}")
        left = [
            entry
            for entry in self.folder.iterdir()
            if entry.name not in FILES_OF_JOB and not entry.name.startswith("lost-")
        ]
        if self.client.result is not None and left:
            raise error
        self.client.result = None  # of a virtual machine that had not sent its evidence
        lost_folder = self.folder / f"lost-{attempt}"
        for entry in left:
            lost_folder.mkdir(exist_ok=True)
            entry.rename(lost_folder / entry.name)


@contextlib.contextmanager
def signals_to_lab() -> Iterator[int]:
    """A descriptor that yields T when this process receives SIGTERM, with which Avocado terminates a task."""
    reader, writer = os.pipe()

    def write(_number: int, _frame: FrameType | None) -> None:
        os.write(writer, b"T")

    before = signal.signal(signal.SIGTERM, write)
    try:
        yield reader
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(writer)
        os.close(reader)


def _take_templates(folder: Path) -> None:
    """Take the templates of guests that the test has made into the store, which a lab cannot write."""
    if any(folder.glob("data/cases/*/guest-template")):
        from cprlib.build.guest_template import store_templates  # noqa: PLC0415 - slow import, for few tests

        store_templates(folder)


def run_task(spec: TaskSpec) -> None:
    """Run the task; the job always receives a message that finishes it."""
    with contextlib.closing(StatusClient(spec.identifier, spec.job_id, spec.status_uris)) as client:
        client.send({"status": "started", "output_dir": spec.output_dir})
        _run_lab(spec, client)


def _run_lab(spec: TaskSpec, client: StatusClient) -> None:
    """Run the task in a lab, and write lab.json."""
    folder = Path(spec.output_dir)
    relay = Relay(client, folder)
    returncode: int | None = None  # unknown
    try:
        engine = engine_of_files(spec.files)
        command = LabCommand(
            (sys.executable, "-m", "cprlib.lab.guest_main", *spec.arguments),
            Path.cwd(),
            {**os.environ, "CPRLIB_LAB": spec.engine, "PYTHONUNBUFFERED": "1", "TMPDIR": LAB_TMPDIR},
            folder,
            LONGEST_TEST,
            spec.memory,
        )
        with signals_to_lab() as signals:
            streams = LabStreams(relay.messages, relay.errors, relay.lost, relay.confined, signals=signals)
            returncode = run_in_lab(engine, command, streams)
        client.error(f"the process of the test ended without a result (status {returncode})", "TestLost")
    except CprlibError as error:
        client.log(f"{error.one_line()}\n{error.details}")
        client.error(error.one_line(), type(error).__name__)
    except Exception as error:
        client.error(f"the host side of the lab failed: {error!r}", type(error).__name__)
        raise
    finally:
        attempts = max(1, len(relay.reasons) + (returncode is not None))
        record: dict[str, Any] = {"engine": spec.engine, "returncode": returncode, "attempts": attempts}
        record |= {"lost": relay.reasons, "layers": relay.layers}
        _take_templates(folder)
        with contextlib.suppress(CprlibError):
            write_json(folder / LAB_FILE, record, mode=0o600)


if __name__ == "__main__":
    run_task(TaskSpec(**json.loads(sys.argv[1])))
