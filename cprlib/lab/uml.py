"""The engine ``uml``: user-mode Linux, a kernel that is an ordinary program of an ordinary user.

Its root is the host's (hostfs, read-only, under an overlay in memory). Channels between the two sides are
pipes, seen inside as serial lines; images/lab/init.c is the other side. What keeps it from writing the host
is in :mod:`cprlib.lab.confine`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from cprlib.cleanup import given_tmpdir
from cprlib.errors import LabFailure
from cprlib.lab.cores import reserved_core
from cprlib.lab.engine import Attempt, LabCommand, LabStreams
from cprlib.lab.session import Channels, Conversation, encode_job
from cprlib.process import mark_passed_on, spawn

BOOT_SECONDS = 30.0
LAYERS = ("namespaces", "landlock")
CACHE_ADVICE = "let CPRLIB_CACHE name a folder without spaces and quotes in its path"


def places_for_memory() -> list[str]:
    """Folders in which a lab's memory file can be, best first."""
    chosen = given_tmpdir()
    return [*([chosen] if chosen else []), "/dev/shm", "/tmp", "/var/tmp"]  # noqa: S108


@contextlib.contextmanager
def _channels(terminal: bool) -> Iterator[Channels]:
    """Pipes for output, errors, console and report; a socket for control and one for the terminal."""
    channels = Channels()
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
                env={"PATH": os.environ.get("PATH", os.defpath), **mark_passed_on()},
                stdout=channels.theirs["console"],
                stderr=channels.theirs["console"],
                pass_fds=list(channels.theirs.values()),
            ) as child:
                channels.close_theirs()
                conversation = Conversation(command, streams, channels, child, BOOT_SECONDS)
                try:
                    return conversation.hold()
                finally:
                    conversation.remove_leftover()

    def _arguments(self, command: LabCommand, channels: Channels, memory_fd: int) -> list[str]:
        if any(character in str(self.init) for character in " \t\n\"'"):
            raise LabFailure("start a lab", f"a kernel's command line takes no path like {self.init}", CACHE_ADVICE)
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
