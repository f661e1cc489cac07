"""The host side of a running lab, for every engine: output, control channel, console."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cprlib.build.host_packages import compile_static
from cprlib.deadline import Deadline
from cprlib.errors import LabFailure, LabLost
from cprlib.files import project_folder
from cprlib.lab.engine import GRACE_SECONDS, Attempt, LabCommand, LabStreams
from cprlib.process import describe_status, tail

CONSOLE_BYTES = 1 << 16


def encode_job(command: LabCommand, folder_source: str) -> bytes:
    """The job for images/lab/init.c: tokens of a letter and a value, each terminated by NUL."""
    tokens = ["cprlab1", *(f"A{word}" for word in command.argv)]
    tokens += [f"E{name}={value}" for name, value in command.env.items()]
    tokens += [f"C{command.cwd}", f"X{os.urandom(64).hex()}"]
    if command.results is not None:
        tokens += [f"r{folder_source}", f"R{command.results}"]
    if command.terminal is not None:
        tokens.append(f"Y{command.terminal[0]} {command.terminal[1]}")
    tokens.append("Q")
    if any("\0" in token for token in tokens):
        raise LabFailure("start a lab", "an argument or variable contains a NUL byte")
    job = b"".join(os.fsencode(token) + b"\0" for token in tokens)
    return job + b"\0" * (-len(job) % 512)  # whole sectors


def init_source() -> Path:
    """The source of a lab's first process, the other end of a session."""
    return project_folder() / "images" / "lab" / "init.c"


def compile_init(folder: Path, *options: str) -> Path:
    """Compile the first process into a folder.

    :param options: for the compiler.
    :raises BuildFailed: holds the compiler's messages.
    """
    program = folder / "init"
    command = ["gcc", "-O2", "-Wall", "-static", "-s", *options, "-o", str(program), str(init_source())]
    compile_static(command, "compile the lab's first process")
    return program


@dataclass(slots=True)
class Channels:
    """Our ends of the pipes, and those of the kernel until it has started."""

    ours: dict[str, int] = field(default_factory=dict)
    theirs: dict[str, int] = field(default_factory=dict)

    def close_theirs(self) -> None:
        for descriptor in self.theirs.values():
            os.close(descriptor)
        self.theirs.clear()


@contextlib.contextmanager
def open_channels(pipes: Iterable[str], sockets: Iterable[str]) -> Iterator[Channels]:
    """Channels with these names, and the job; closed with the body. None has a path that other programs could open."""
    channels = Channels()
    try:
        for name in pipes:
            channels.ours[name], channels.theirs[name] = os.pipe()
        for name in sockets:
            here, there = socket.socketpair()
            channels.ours[name], channels.theirs[name] = here.detach(), there.detach()
        channels.theirs["job"] = os.memfd_create("lab-job")
        yield channels
    finally:
        channels.close_theirs()
        for descriptor in channels.ours.values():
            os.close(descriptor)


class LabSession:
    """One lab from its start to its end.

    :param child: process of the lab.
    :param boot_seconds: time until it must send "ready", scaled.
    :param results: file for the bytes of the channel ``results``, of a lab that sends an archive.
    """

    def __init__(
        self,
        command: LabCommand,
        streams: LabStreams,
        channels: Channels,
        child: subprocess.Popen[str],
        boot_seconds: float,
        results: IO[bytes] | None = None,
    ) -> None:
        self.results = results
        self.command = command
        self.streams = streams
        self.channels = channels
        self.child = child
        self.started = time.monotonic()
        self.boot_ms: float | None = None
        self.deadline = Deadline(boot_seconds, "the lab to boot")
        self.terminating = False
        self.returncode: int | None = None
        self.console = b""
        self.control = b""
        self.report = b""
        self._results_announced: int | None = None

    def run(self) -> Attempt:
        """Pass data on until the kernel has ended."""
        ours = self.channels.ours
        readers = self._readers()
        with selectors.DefaultSelector() as selector:
            for name, reader in readers.items():
                selector.register(ours[name], selectors.EVENT_READ, reader)
            if self.streams.signals is not None:
                selector.register(self.streams.signals, selectors.EVENT_READ, self._forward("control"))
            if self.streams.input is not None and "terminal" in ours:
                selector.register(self.streams.input, selectors.EVENT_READ, self._forward("terminal"))
            open_readers = len(readers)
            while open_readers:
                for key, _ in selector.select(self.deadline.remaining):
                    try:
                        data = os.read(key.fd, 1 << 16)
                    except ConnectionResetError:
                        data = b""
                    if data:
                        key.data(data)
                    else:
                        selector.unregister(key.fd)
                        open_readers -= key.fd in ours.values()
                if open_readers and self.deadline.expired:  # also while there is output
                    self._on_deadline()
        status = self.child.wait()
        if self.returncode is None or self.boot_ms is None:
            raise self._lost(status)
        return Attempt(self.returncode, self.boot_ms)

    def _readers(self) -> dict[str, Callable[[bytes], None]]:
        readers: dict[str, Callable[[bytes], None]] = {
            "stdout": self.streams.stdout,
            "stderr": self.streams.stderr,
            "terminal": self.streams.stdout,
            "console": self._on_console,
            "report": self._on_report,
            "control": self._on_control,
        }
        if self.results is not None:
            readers["results"] = self._on_results
        return {name: reader for name, reader in readers.items() if name in self.channels.ours}

    def _forward(self, channel: str) -> Callable[[bytes], None]:
        def forward(data: bytes) -> None:
            with contextlib.suppress(OSError):  # the lab may have ended
                os.write(self.channels.ours[channel], data)

        return forward

    def _on_console(self, data: bytes) -> None:
        self.console = (self.console + data)[-CONSOLE_BYTES:]

    def _on_report(self, data: bytes) -> None:
        self.report += data

    def _on_control(self, data: bytes) -> None:
        self.control += data
        *lines, self.control = self.control.split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "ready":
                self.remove_leftover()
                for report in self._reports():
                    self.streams.confined(report)
                self.boot_ms = (time.monotonic() - self.started) * 1000
                self.deadline = Deadline(self.command.seconds, "the command in the lab to end")
            elif word == "results":
                self._results_announced = int(rest)
                self._acknowledge()
            elif word == "exit":
                self.returncode = int(rest)
            elif word == "signal":
                self.returncode = -int(rest)
            elif word == "broken":
                raise LabFailure("set up the lab", rest, details=self._evidence())

    def _on_results(self, data: bytes) -> None:
        if self.results is not None:
            self.results.write(data)
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Confirm to a lab that all of its results have arrived."""
        if self.results is not None and self._results_announced == self.results.tell():
            self._forward("control")(b"Q")

    def finish_report(self) -> None:
        """Read the rest of the report; the launcher has ended."""
        while data := os.read(self.channels.ours["report"], 1 << 16):
            self.report += data

    def remove_leftover(self) -> None:
        """Remove the folder of the memory file, which a running kernel does not need."""
        for report in self._reports():
            if report.get("leftover"):
                shutil.rmtree(report["leftover"], ignore_errors=True)

    def _reports(self) -> list[dict[str, Any]]:
        """The reports of the launcher: one line, and a second one when it failed."""
        return [json.loads(line) for line in self.report.splitlines() if line.strip()]

    def _on_deadline(self) -> None:
        if self.boot_ms is None:
            raise LabLost("boot a lab", f"no message within {self.deadline.seconds:.0f} s", details=self._evidence())
        if self.terminating:
            raise Deadline(self.command.seconds, "the command in the lab to end").exceeded(
                f"nor within {self.deadline.seconds:.0f} s after SIGTERM", details=self._evidence()
            )
        self.terminating = True
        self._forward("control")(b"T")
        self.deadline = Deadline(GRACE_SECONDS, "the command in the lab to end")

    def _lost(self, status: int) -> LabFailure:
        errors = [report["error"] for report in self._reports() if "error" in report]
        if errors:
            return LabFailure("start a lab", errors[0], "see cprlib doctor", details=self._evidence())
        lines = self.console.decode(errors="replace").splitlines()
        panics = [line for line in lines if "Kernel panic" in line or "Oops" in line]
        last = panics[-1].strip() if panics else "no message on its console"
        when = "while booting" if self.boot_ms is None else "under its command"
        return LabLost(
            "run a command in a lab",
            f"its kernel died {when} ({describe_status(status)}): {last}",
            details=self._evidence(),
        )

    def _evidence(self) -> str:
        launcher, console = self.report.decode(errors="replace"), self.console.decode(errors="replace")
        return f"launcher: {launcher}\nconsole:\n{tail(console)}"
