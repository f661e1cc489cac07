"""The engine ``uml``: user-mode Linux, a kernel that is an ordinary program of an ordinary user.

Its root is the host's (hostfs, read-only, under an overlay in memory). Channels between the two sides are
pipes, seen inside as serial lines; images/lab/init.c is the other side. What keeps it from writing the host
is in :mod:`cprlib.lab.confine`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import LabFailure, LabLost
from cprlib.lab.cores import reserved_core
from cprlib.lab.engine import Attempt, LabCommand, LabStreams
from cprlib.process import describe_status, spawn, tail

BOOT_SECONDS = 30.0
GRACE_SECONDS = 5.0  # from SIGTERM to the end of the lab
CONSOLE_KEPT = 1 << 16
LAYERS = ("namespaces", "landlock")


def places_for_memory() -> list[str]:
    """Folders in which a lab's memory file can be, best first."""
    chosen = os.environ.get("TMPDIR")
    return [*([chosen] if chosen else []), "/dev/shm", "/tmp", "/var/tmp"]  # noqa: S108


def encode_job(command: LabCommand, folder_source: str) -> bytes:
    """The job as images/lab/init.c reads it from its disk: tokens of a letter and a value, each ended by NUL."""
    tokens = ["cprlab1", *(f"A{word}" for word in command.argv)]
    tokens += [f"E{name}={value}" for name, value in command.env.items()]
    tokens += [f"C{command.cwd}", "Hlab", f"X{os.urandom(64).hex()}"]
    if command.results is not None:
        tokens += [f"r{folder_source}", f"R{command.results}"]
    if command.terminal is not None:
        tokens.append(f"Y{command.terminal[0]} {command.terminal[1]}")
    tokens.append("Q")
    if any("\0" in token for token in tokens):
        raise LabFailure("start a lab", "an argument or variable contains a NUL octet")
    job = b"".join(os.fsencode(token) + b"\0" for token in tokens)
    return job + b"\0" * (-len(job) % 512)  # whole sectors


@dataclass(slots=True)
class _Channels:
    """Our ends of the pipes, and the kernel's while it has not started."""

    ours: dict[str, int] = field(default_factory=dict)
    theirs: dict[str, int] = field(default_factory=dict)

    def close_theirs(self) -> None:
        for descriptor in self.theirs.values():
            os.close(descriptor)
        self.theirs.clear()


@contextlib.contextmanager
def _channels(terminal: bool) -> Iterator[_Channels]:
    """Pipes for output, errors, console and report; a socket for control and one for the terminal."""
    channels = _Channels()
    try:
        for name in ("stdout", "stderr", "console", "report"):
            channels.ours[name], channels.theirs[name] = os.pipe()
        for name in ("control", *(("terminal",) if terminal else ())):
            here, there = socket.socketpair()
            channels.ours[name], channels.theirs[name] = here.detach(), there.detach()
        channels.theirs["job"] = os.memfd_create("lab-job")
        yield channels
    finally:
        channels.close_theirs()
        for descriptor in channels.ours.values():
            os.close(descriptor)


class UmlEngine:
    """Starts user-mode Linux labs.

    :param kernel: the program built with ``ARCH=um``.
    :param init: the static program made from images/lab/init.c.
    :param layers: which layers of :mod:`cprlib.lab.confine` may be used; for tests.
    """

    name = "uml"

    def __init__(self, kernel: Path, init: Path, layers: tuple[str, ...] = LAYERS) -> None:
        self.kernel = kernel
        self.init = init
        self.layers = layers

    def attempt(self, command: LabCommand, streams: LabStreams) -> Attempt:
        """See :meth:`cprlib.lab.engine.LabEngine.attempt`."""
        if command.results is not None and not command.results.is_dir():
            raise LabFailure("start a lab", f"{command.results} is no folder", "make the results folder first")
        with reserved_core() as core, _channels(command.terminal is not None) as channels:
            top = max((*channels.ours.values(), *channels.theirs.values()))
            memory_fd, results_fd = top + 1, top + 2
            job = channels.theirs["job"]
            with open(job, "wb", closefd=False) as stream:
                stream.write(encode_job(command, f"/proc/self/fd/{results_fd}/."))
            launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("confine.py"))]
            spec = {
                "argv": self._arguments(command, channels, memory_fd),
                "folders": [str(command.results)] if command.results else [],
                "folder_fds": [results_fd] if command.results else [],
                "memory": command.memory,
                "memory_fd": memory_fd,
                "places": places_for_memory(),
                "cpu": core if command.cpu is None else command.cpu,
                "report": channels.theirs["report"],
                "keep": [fd for name, fd in channels.theirs.items() if name not in ("report", "console")],
                "layers": self.layers,
            }
            with spawn(
                [*launcher, json.dumps(spec)],
                purpose="start a lab",
                env={"PATH": os.environ.get("PATH", os.defpath)},
                stdout=channels.theirs["console"],
                stderr=channels.theirs["console"],
                pass_fds=list(channels.theirs.values()),
            ) as child:
                channels.close_theirs()
                conversation = _Conversation(command, streams, channels, child)
                try:
                    return conversation.hold()
                finally:
                    conversation.remove_leftover()

    def _arguments(self, command: LabCommand, channels: _Channels, memory_fd: int) -> list[str]:
        line = {name: f"fd:{fd}" for name, fd in channels.theirs.items()}
        return [
            str(self.kernel),
            f"mem={command.memory}M",
            "seccomp=auto",
            "root=none",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            f"init={self.init}",
            f"ubd0r=/proc/self/fd/{channels.theirs['job']}",
            f"uml_dir=/proc/self/fd/{memory_fd}/",
            "umid=lab",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            f"ssl0=null,{line['stdout']}",
            f"ssl1=null,{line['stderr']}",
            f"ssl2={line['control']}",
            f"ssl3={line.get('terminal', 'null')}",
            "panic=-1",
            "noreboot",
        ]


class _Conversation:
    """One lab from its start to its end, seen from the host."""

    def __init__(
        self, command: LabCommand, streams: LabStreams, channels: _Channels, child: subprocess.Popen[str]
    ) -> None:
        self.command = command
        self.streams = streams
        self.channels = channels
        self.child = child
        self.started = time.monotonic()
        self.boot_ms: float | None = None
        self.deadline = Deadline(BOOT_SECONDS, "the lab to boot")
        self.told_to_end = False
        self.returncode: int | None = None
        self.console = b""
        self.control = b""
        self.report = b""

    def hold(self) -> Attempt:
        """Pass everything on until the kernel has gone."""
        ours = self.channels.ours
        readers: dict[str, Callable[[bytes], None]] = {
            "stdout": self.streams.stdout,
            "stderr": self.streams.stderr,
            "console": self._on_console,
            "report": self._on_report,
            "control": self._on_control,
        }
        if "terminal" in ours:
            readers["terminal"] = self.streams.stdout
        with selectors.DefaultSelector() as selector:
            for name, reader in readers.items():
                selector.register(ours[name], selectors.EVENT_READ, reader)
            if self.streams.signals is not None:
                selector.register(self.streams.signals, selectors.EVENT_READ, self._forward("control"))
            if self.streams.input is not None and "terminal" in ours:
                selector.register(self.streams.input, selectors.EVENT_READ, self._forward("terminal"))
            open_readers = len(readers)
            while open_readers:
                events = selector.select(self.deadline.remaining)
                if not events and self.deadline.expired:
                    self._on_deadline()
                for key, _ in events:
                    try:
                        octets = os.read(key.fd, 1 << 16)
                    except ConnectionResetError:
                        octets = b""
                    if octets:
                        key.data(octets)
                    else:
                        selector.unregister(key.fd)
                        open_readers -= key.fd in ours.values()
        status = self.child.wait()
        if self.returncode is None or self.boot_ms is None:
            raise self._lost(status)
        return Attempt(self.returncode, self.boot_ms)

    def _forward(self, channel: str) -> Callable[[bytes], None]:
        def forward(octets: bytes) -> None:
            with contextlib.suppress(OSError):  # the lab may have gone
                os.write(self.channels.ours[channel], octets)

        return forward

    def _on_console(self, octets: bytes) -> None:
        self.console = (self.console + octets)[-CONSOLE_KEPT:]

    def _on_report(self, octets: bytes) -> None:
        self.report += octets

    def _on_control(self, octets: bytes) -> None:
        self.control += octets
        *lines, self.control = self.control.split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "ready":
                self.remove_leftover()
                self.boot_ms = (time.monotonic() - self.started) * 1000
                self.deadline = Deadline(self.command.seconds, "the command in the lab to end")
            elif word == "exit":
                self.returncode = int(rest)
            elif word == "signal":
                self.returncode = -int(rest)
            elif word == "broken":
                raise LabFailure("set up the lab", rest, details=self._evidence())

    def remove_leftover(self) -> None:
        """Remove the folder of the memory file; once the kernel runs it needs no name."""
        for report in self._reports():
            if report.get("leftover"):
                shutil.rmtree(report["leftover"], ignore_errors=True)

    def _reports(self) -> list[dict[str, Any]]:
        """What the launcher has said so far: one line, a second one when it failed."""
        return [json.loads(line) for line in self.report.splitlines() if line.strip()]

    def _on_deadline(self) -> None:
        if self.boot_ms is None:
            raise LabLost("boot a lab", f"no sign of life after {BOOT_SECONDS:.0f} s", details=self._evidence())
        if self.told_to_end:
            raise Deadline(self.command.seconds, "the command in the lab to end").exceeded(
                f"nor within {GRACE_SECONDS:.0f} s after SIGTERM", details=self._evidence()
            )
        self.told_to_end = True
        self._forward("control")(b"T")
        self.deadline = Deadline(GRACE_SECONDS, "the command in the lab to end")

    def _lost(self, status: int) -> LabFailure:
        errors = [report["error"] for report in self._reports() if "error" in report]
        if errors:
            return LabFailure("start a lab", errors[0], "see cprlib doctor", details=self._evidence())
        lines = self.console.decode(errors="replace").splitlines()
        panics = [line for line in lines if "Kernel panic" in line or "Oops" in line]
        said = panics[-1].strip() if panics else "no last words"
        when = "while booting" if self.boot_ms is None else "under its command"
        return LabLost(
            "run a command in a lab",
            f"its kernel died {when} ({describe_status(status)}): {said}",
            details=self._evidence(),
        )

    def _evidence(self) -> str:
        return (
            f"launcher: {self.report.decode(errors='replace')}\nconsole:\n{tail(self.console.decode(errors='replace'))}"
        )
