"""The interface of a lab: one command in a fresh kernel, its output and its exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cprlib.errors import LabLost

ATTEMPTS = 2  # a command whose lab dies is run again in a new lab
DEFAULT_MEMORY_MIB = 3072
GRACE_SECONDS = 5.0  # from SIGTERM to the end of the lab, scaled
ENGINES = ("uml", "kvm")  # made by cprlib.lab.engines

Writer = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class LabCommand:
    """One command for one lab.

    :param argv: program and arguments; the program is looked up in PATH of ``env``.
    :param cwd: working folder, which has the same path inside.
    :param env: the whole environment of the command.
    :param results: the only folder of the host that the lab can write; must exist.
    :param seconds: time from the start of the command until SIGTERM, scaled.
    :param memory: MiB, taken from the host as they are used.
    :param terminal: rows and columns of a terminal for the command (``cprlib lab shell``).
    """

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    results: Path | None = None
    seconds: float = 600.0
    memory: int = DEFAULT_MEMORY_MIB
    terminal: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class LabStreams:
    """Callbacks for the output of a running command.

    :param stdout: called with bytes of standard output (with a terminal, of both).
    :param stderr: called with bytes of standard error.
    :param lost: called with the number of the attempt and the reason when a lab dies; the command then starts again, so
        discard its output. It raises the reason when the command is not to start again.
    :param confined: called with the report of the launcher when a lab has booted: the layers that protect the host.
    :param input: descriptor whose bytes go to the terminal of the command.
    :param signals: descriptor whose letters T send SIGTERM to the command.
    """

    stdout: Writer
    stderr: Writer
    lost: Callable[[int, LabLost], None] = lambda attempt, error: None  # noqa: ARG005
    confined: Callable[[Mapping[str, Any]], None] = lambda report: None  # noqa: ARG005
    input: int | None = None
    signals: int | None = None


def standard_streams() -> LabStreams:
    """Pass output to standard output and error of this process."""

    def writer(descriptor: int) -> Writer:
        def write(data: bytes) -> None:
            while data:
                data = data[os.write(descriptor, data) :]

        return write

    def lost(attempt: int, error: LabLost) -> None:
        print(f"lab lost (attempt {attempt} of {ATTEMPTS}): {error.one_line()}", file=sys.stderr, flush=True)

    return LabStreams(writer(1), writer(2), lost)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Result of one lab: exit status of the command (negative: signal) and time to boot."""

    returncode: int
    boot_ms: float


class LabEngine(Protocol):
    """Starts labs of one kind."""

    def attempt(self, command: LabCommand, streams: LabStreams) -> Attempt:
        """Run a command in one fresh lab.

        :raises LabFailure: the lab cannot be started here.
        :raises LabLost: the kernel of the lab died.
        :raises DeadlineExceeded: the command did not end after SIGTERM.
        """


def run_in_lab(engine: LabEngine, command: LabCommand, streams: LabStreams, attempts: int = ATTEMPTS) -> int:
    """Run a command in a fresh kernel; again in a new lab when the first one dies.

    :param attempts: number of labs to try.
    :returns: exit status of the command, negative for the signal that killed it.
    :raises LabFailure: a lab cannot be started here.
    :raises LabLost: every lab died; the result of the command is unknown.
    :raises DeadlineExceeded: the command did not end in time.
    """
    lost = 0
    while True:
        try:
            return engine.attempt(command, streams).returncode
        except LabLost as error:
            lost += 1
            streams.lost(lost, error)
            if lost >= attempts:
                happened = f"{lost} labs in a row died; the last one: {error.happened}"
                raise LabLost(error.tried, happened, error.advice, details=error.details) from error
