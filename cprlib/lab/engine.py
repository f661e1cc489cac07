"""What a lab is, whatever engine drives it: one command in a fresh kernel, its output and its exit status."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cprlib.errors import LabLost

ATTEMPTS = 2  # a lab that dies is tried once more on a fresh one
DEFAULT_MEMORY_MIB = 3072

Writer = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class LabCommand:
    """One command for one lab.

    :param argv: program and arguments; the program is looked up in PATH of ``env``.
    :param cwd: working folder, seen inside under the host's path.
    :param env: the whole environment of the command.
    :param results: the one folder of the host that can be written from inside; must exist.
    :param seconds: time from the command's start until it is told to end (SIGTERM), scaled.
    :param memory: size of the lab's memory in MiB; taken from the host page by page as it is used.
    :param cpu: the host's core to run on; None for one that no other lab has.
    :param terminal: rows and columns when the command shall have a terminal (``cprlib lab shell``).
    """

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    results: Path | None = None
    seconds: float = 600.0
    memory: int = DEFAULT_MEMORY_MIB
    cpu: int | None = None
    terminal: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class LabStreams:
    """Where the output of a command goes while it runs.

    :param stdout: called with bytes of standard output as they arrive (of both, with a terminal).
    :param stderr: called with bytes of standard error.
    :param lost: called with the number of the attempt and the reason when a lab has died; after the first
        time the command starts again from nothing, so output received so far is void.
    :param input: a descriptor whose bytes go to the command's terminal; only with ``terminal``.
    :param signals: a descriptor that gives the letters T, I, H for SIGTERM, SIGINT, SIGHUP to the command.
    """

    stdout: Writer
    stderr: Writer
    lost: Callable[[int, LabLost], None] = lambda attempt, error: None  # noqa: ARG005
    input: int | None = None
    signals: int | None = None


def standard_streams() -> LabStreams:
    """Passes a command's output on to this process's own standard output and error."""

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
    """What one lab gave: the command's exit status (negative: killed by that signal) and the time to boot."""

    returncode: int
    boot_ms: float


@dataclass(frozen=True, slots=True)
class LabOutcome:
    """The end of a command.

    :param returncode: its exit status, negative for the signal that killed it.
    :param boot_ms: from the start of the (last) lab until it started the command.
    :param elapsed_ms: from the first start to the last end, lost labs included.
    :param attempts: labs that were used, at least 1.
    :param lost: the reasons why labs were lost; ``attempts - 1`` of them.
    """

    returncode: int
    boot_ms: float
    elapsed_ms: float
    attempts: int
    lost: tuple[str, ...]


class LabEngine(Protocol):
    """Starts labs of one kind."""

    @property
    def name(self) -> str:
        """``"uml"`` or ``"kvm"``."""

    def attempt(self, command: LabCommand, streams: LabStreams) -> Attempt:
        """Run a command in one fresh lab.

        :raises LabFailure: the lab cannot be started here.
        :raises LabLost: the lab's kernel died.
        :raises DeadlineExceeded: the command did not end, not even when told to.
        """


class Lab:
    """Runs commands, each in a fresh kernel."""

    def __init__(self, engine: LabEngine, attempts: int = ATTEMPTS) -> None:
        self.engine = engine
        self.attempts = attempts

    def run(self, command: LabCommand, streams: LabStreams) -> LabOutcome:
        """Run a command; once more on a fresh lab when the first one dies.

        :raises LabFailure: a lab cannot be started here.
        :raises LabLost: every lab died; nothing is known about the command.
        :raises DeadlineExceeded: the command did not end in time.
        """
        started = time.monotonic()
        lost: list[str] = []
        while True:
            try:
                attempt = self.engine.attempt(command, streams)
            except LabLost as error:
                lost.append(error.happened)
                streams.lost(len(lost), error)
                if len(lost) >= self.attempts:
                    raise LabLost(
                        error.tried,
                        f"{len(lost)} labs in a row died, the last one so: {error.happened}",
                        error.advice,
                        details=error.details,
                    ) from error
                continue
            elapsed_ms = (time.monotonic() - started) * 1000
            return LabOutcome(attempt.returncode, attempt.boot_ms, elapsed_ms, len(lost) + 1, tuple(lost))
