"""The engine ``uml``: user-mode Linux, a kernel that any user can run as a program.

Its root is that of the host (hostfs, read-only, below an overlay in memory). Channels are pipes, which are serial
lines inside; images/lab/init.c is the other end. :mod:`cprlib.lab.confine` keeps the lab from writing the host.

A lab runs on one core: user-mode Linux is two or more processes that alternate, twice as fast on one core as on two
(importing scapy and pyroute2 in a lab: 1.3 s against 2.6 s, with another program running on the machine).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cprlib.cleanup import users_tmpdir
from cprlib.errors import EnvironmentFailure, LabFailure
from cprlib.files import CACHE_ADVICE, cache_folder, is_plain, locked
from cprlib.lab.engine import Attempt, LabCommand, LabStreams
from cprlib.lab.session import Channels, LabSession, encode_job, open_channels
from cprlib.process import mark_environment, spawn

if TYPE_CHECKING:
    from typing import Unpack

    from cprlib.lab.confine import Spec

BOOT_SECONDS = 30.0
LAYERS = ("namespaces", "landlock")
PIPES = ("stdout", "stderr", "console", "report")


def places_for_memory() -> list[str]:
    """Folders for the memory file of a lab, best first."""
    chosen = users_tmpdir()
    return [*([chosen] if chosen else []), "/dev/shm", "/tmp", "/var/tmp"]  # noqa: S108


def confined(**spec: Unpack[Spec]) -> list[str]:
    """The command line of the launcher, :mod:`cprlib.lab.confine`."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("confine.py")), json.dumps(spec)]


class UmlEngine:
    """Starts user-mode Linux labs.

    :param kernel: program built with ``ARCH=um``.
    :param init: static program from images/lab/init.c.
    :param layers: permitted layers of :mod:`cprlib.lab.confine`; for tests.
    """

    def __init__(self, kernel: Path, init: Path, layers: tuple[str, ...] = LAYERS) -> None:
        self.kernel = kernel
        self.init = init
        self.layers = layers

    def attempt(self, command: LabCommand, streams: LabStreams) -> Attempt:
        if command.results is not None and not command.results.is_dir():
            raise LabFailure("start a lab", f"{command.results} is no folder", "create the results folder first")
        sockets = ["control"] if command.terminal is None else ["control", "terminal"]
        with reserved_core() as core, open_channels(PIPES, sockets) as channels:
            top = max((*channels.ours.values(), *channels.theirs.values()))
            memory_fd, results_fd = top + 1, top + 2
            job = channels.theirs["job"]
            with open(job, "wb", closefd=False) as stream:
                stream.write(encode_job(command, f"/proc/self/fd/{results_fd}/."))
            launcher = confined(
                argv=self._arguments(command, channels, memory_fd),
                folders=[str(command.results)] if command.results else [],
                folder_fds=[results_fd] if command.results else [],
                memory=command.memory,
                memory_fd=memory_fd,
                places=places_for_memory(),
                cpu=core,
                report=channels.theirs["report"],
                keep=[fd for name, fd in channels.theirs.items() if name not in ("report", "console")],
                layers=list(self.layers),
            )
            session = None
            try:
                with spawn(
                    launcher,
                    purpose="start a lab",
                    env={"PATH": os.environ.get("PATH", os.defpath), **mark_environment()},
                    stdout=channels.theirs["console"],
                    stderr=channels.theirs["console"],
                    pass_fds=list(channels.theirs.values()),
                ) as child:
                    channels.close_theirs()
                    session = LabSession(command, streams, channels, child, BOOT_SECONDS)
                    return session.run()
            finally:
                if session:
                    session.finish_report()  # it may have been interrupted before it read any of it
                    session.remove_leftover()

    def _arguments(self, command: LabCommand, channels: Channels, memory_fd: int) -> list[str]:
        if not is_plain(self.init):
            raise LabFailure("start a lab", f"a kernel command line cannot hold {self.init}", CACHE_ADVICE)
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


@contextlib.contextmanager
def reserved_core() -> Iterator[int]:
    """A core that no other lab of this user has reserved; any core when all are reserved.

    The reservation is a file lock, which the kernel drops when its holder ends. Other users and containers have locks
    of their own: the order is random, so that not all of them have the same core.
    """
    cores = list(os.sched_getaffinity(0))
    random.shuffle(cores)
    with contextlib.ExitStack() as stack:
        yield next((core for core in cores if _reserve(core, stack)), cores[0])


def _reserve(core: int, stack: contextlib.ExitStack) -> bool:
    """Reserve a core until the stack is closed; False when another lab has it."""
    try:
        stack.enter_context(locked(cache_folder() / "lab-cores" / str(core), wait=False))
    except (OSError, EnvironmentFailure):  # another lab has it; or a read-only cache, which allows no reservation
        return False
    return True
