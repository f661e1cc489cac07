"""Progress of long work: a running clock on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

CLOCK_PERIOD = 1.0  # seconds between updates of the clock on a terminal
STILL_PERIOD = 30.0  # seconds between lines for a step that still runs, without a terminal

Say = Callable[[str], None]


class Progress:
    """Receives the progress of long work and shows nothing; base of those that show it."""

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Say]:
        """A step of the work: ``"compile QEMU 10.0"``.

        The context yields a function that takes the state of the step (``"[120/890]"``); it may be called often, from
        one thread.
        """
        del what
        yield lambda _detail: None

    def note(self, text: str) -> None:
        """Print a line that is no step."""


class _StreamProgress(Progress):
    """Writes to a stream.

    :param stream: standard error by default, because standard output belongs to the command.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class LineProgress(_StreamProgress):
    """Prints a line when a step begins, ends, and every half minute in between; for logs."""

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Say]:
        started = time.monotonic()
        detail = ""

        def say(text: str) -> None:
            nonlocal detail
            detail = text

        def still() -> None:
            self.note(f"{what} {detail}".rstrip() + f" ... {seconds_text(time.monotonic() - started)}")

        self.note(f"{what} ...")
        ended = "stopped"
        try:
            with _every(STILL_PERIOD, still):
                yield say
            ended = "done"
        finally:
            self.note(f"{what}: {ended} after {seconds_text(time.monotonic() - started)}")


class TerminalProgress(_StreamProgress):
    """Rewrites one line with a clock while a step lasts; the line stays when the step ends."""

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Say]:
        started = time.monotonic()
        drawn = 0.0
        detail = ""

        def draw(text: str, end: str = "") -> None:
            line = f"[{seconds_text(time.monotonic() - started):>6}] {what} {text}".rstrip()
            self._stream.write("\r" + line[: self._columns() - 1] + "\x1b[K" + end)
            self._stream.flush()

        def say(text: str) -> None:
            nonlocal detail, drawn
            detail = text
            if time.monotonic() - drawn > CLOCK_PERIOD / 5:  # a compiler prints faster than a person reads
                drawn = time.monotonic()
                draw(detail)

        draw("")
        ended = "stopped"
        try:
            with _every(CLOCK_PERIOD, lambda: draw(detail)):
                yield say
            ended = ""
        finally:
            draw(ended, "\n")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80


def console_progress(stream: TextIO | None = None) -> Progress:
    """A clock for a terminal, else lines; on standard error by default."""
    chosen = stream or sys.stderr
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    return TerminalProgress(chosen) if chosen.isatty() and not dumb else LineProgress(chosen)


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
