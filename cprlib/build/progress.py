"""Progress of long work, several steps at once: live lines with clocks on a terminal, lines in time elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from cprlib.build.expected import Expected

CLOCK_PERIOD = 1.0  # seconds between updates of the clocks on a terminal
STILL_PERIOD = 30.0  # seconds between lines for steps that still run, without a terminal


class Say(Protocol):
    """Takes the state of a step: a text, ``"[120/890]"``, and how much of it is done, 0 to 1, where that is known."""

    def __call__(self, detail: str, fraction: float = 0.0) -> None: ...


class Progress:
    """Receives the progress of long work and shows nothing; base of those that show it."""

    @contextlib.contextmanager
    def step(self, what: str, work: float = 0.0) -> Iterator[Say]:
        """A step of the work: ``"compile QEMU 10.0"``; several may run at once, each on a thread of its own.

        The context yields a function that takes the state of the step; it may be called often.

        :param work: processor seconds that the step is expected to take (:mod:`cprlib.build.expected`).
        """
        del what, work
        yield lambda _detail, _fraction=0.0: None

    def note(self, text: str) -> None:
        """Print a line that is not a step."""

    def raise_if_stopped(self) -> None:
        """Raise an exception when the work is to stop, because another build failed or the caller was interrupted.

        Work that waits without a step calls it again and again. Here it does nothing: this work is never stopped.
        """

    def expect(self, expected: Expected | None) -> None:
        """Show the time that is left, until called with None."""


@dataclass(slots=True, eq=False)
class _Step:
    what: str
    work: float
    started: float = field(default_factory=time.monotonic)
    detail: str = ""
    fraction: float = 0.0

    def line(self, ended: str = "") -> str:
        return f"[{seconds_text(time.monotonic() - self.started):>6}] {self.what} {ended or self.detail}".rstrip()


class LineProgress(Progress):
    """Prints a line when a step begins, ends, and every half minute in between; for logs.

    :param stream: standard error by default, because standard output belongs to the command.
    """

    period = STILL_PERIOD

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.RLock()
        self._running: list[_Step] = []
        self._expected: Expected | None = None

    @contextlib.contextmanager
    def step(self, what: str, work: float = 0.0) -> Iterator[Say]:
        step = _Step(what, work)

        def say(detail: str, fraction: float = 0.0) -> None:
            step.detail, step.fraction = detail, fraction

        with self._lock:
            self._running.append(step)
            self._begun(step)
        ended = "stopped"
        try:
            with _every(self.period, lambda: self._tick(step)):
                yield say
            ended = ""
        finally:
            with self._lock:
                self._running.remove(step)
                if self._expected is not None and not ended:
                    self._expected.finish(work)
                self._ended(step, ended)

    def note(self, text: str) -> None:
        with self._lock:
            print(text, file=self._stream, flush=True)

    def expect(self, expected: Expected | None) -> None:
        with self._lock:
            self._expected = expected

    def _left(self) -> str:
        """``"about 3:20 to the first verdict"``; empty when no time is expected."""
        if self._expected is None:
            return ""
        done = sum(step.work * step.fraction for step in self._running)
        left = seconds_text(self._expected.left(done))
        return f"{seconds_text(self._expected.elapsed)}, about {left} {self._expected.until}"

    def _begun(self, step: _Step) -> None:
        self.note(f"{step.what} ...")

    def _tick(self, step: _Step) -> None:
        with self._lock:
            left = f" ({self._left()})" if self._expected is not None and step is self._running[0] else ""
            self.note(f"{step.what} {step.detail}".rstrip() + f" ... {self._lasted(step)}{left}")

    def _ended(self, step: _Step, ended: str) -> None:
        self.note(f"{step.what}: {ended or 'done'} after {self._lasted(step)}")

    def _lasted(self, step: _Step) -> str:
        return seconds_text(time.monotonic() - step.started)


class TerminalProgress(LineProgress):
    """Rewrites a block of lines while steps run: a clock for each, and the time that is left. Ended steps stay."""

    period = CLOCK_PERIOD

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._drawn = 0  # lines of the block on the screen

    def note(self, text: str) -> None:
        with self._lock:
            self._draw([text])

    def expect(self, expected: Expected | None) -> None:
        with self._lock:
            super().expect(expected)
            self._draw([])

    def _begun(self, step: _Step) -> None:
        del step
        self._draw([])

    def _tick(self, step: _Step) -> None:
        with self._lock:
            if self._running and step is self._running[0]:  # one clock draws all
                self._draw([])

    def _ended(self, step: _Step, ended: str) -> None:
        self._draw([step.line(ended or " ")])

    def _draw(self, lasting: list[str]) -> None:
        """Replace the block by lines that stay and the block as it is now."""
        block = [step.line() for step in self._running]
        if block and (left := self._left()):
            block.append(f"         {left}")
        width = self._columns() - 1
        back = f"\x1b[{self._drawn}A" if self._drawn else ""
        text = "".join(f"{line[:width]}\x1b[K\n" for line in [*lasting, *block])
        self._stream.write(f"\r{back}{text}\x1b[J")
        self._stream.flush()
        self._drawn = len(block)

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80


def console_progress() -> Progress:
    """Clocks for a terminal, else lines; on standard error."""
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    return TerminalProgress() if sys.stderr.isatty() and not dumb else LineProgress()


def seconds_text(seconds: float) -> str:
    """``"7 s"``; from one minute on ``"2:05"``."""
    whole = int(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02d}"


@contextlib.contextmanager
def _every(period: float, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` every ``period`` seconds in a thread while the body runs."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(period):
            act()

    thread = threading.Thread(target=tick, name="progress clock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
