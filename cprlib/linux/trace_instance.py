"""An instance of the kernel's trace of our own, in tracefs, on CLOCK_MONOTONIC; it is gone when it is closed."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from cprlib.cleanup import CleanupProcess

TRACEFS = Path("/sys/kernel/tracing")
BUFFER_KIB = 8192  # per processor; an event takes some 60 bytes


class TraceInstance:
    """A trace buffer that nobody else writes to.

    All methods but :meth:`close` raise OSError where tracefs is absent or refuses.

    :param tracefs: where it is mounted.
    """

    def __init__(self, tracefs: Path = TRACEFS) -> None:
        self._folder = tracefs / "instances" / f"cprlib-{os.getpid()}-{time.monotonic_ns()}"
        self._stack = contextlib.ExitStack()

    def make(self) -> None:
        """Make the instance; it records nothing yet."""
        if not os.environ.get("CPRLIB_LAB") and os.access(self._folder.parent, os.W_OK):
            self._stack.enter_context(CleanupProcess()).instance(self._folder)  # a lab's kernel goes, the host's stays
        self._folder.mkdir()
        (self._folder / "trace_clock").write_text("mono")
        (self._folder / "buffer_size_kb").write_text(str(BUFFER_KIB))

    def event(self, name: str) -> Path:
        """The folder of an event, named ``skb/kfree_skb``."""
        return self._folder / "events" / name

    def enable(self, name: str, condition: str = "") -> None:
        """Record an event.

        :param condition: filter of the event (Documentation/trace/events.rst); empty for all of them.
        """
        if condition:
            (self.event(name) / "filter").write_text(condition)
        (self.event(name) / "enable").write_text("1")

    def text(self) -> str:
        """Everything recorded so far, in ftrace's text format."""
        return (self._folder / "trace").read_text(errors="replace")

    def lost(self) -> int:
        """Events that the buffer itself lost: overwritten or dropped, from per_cpu/cpuN/stats."""
        return sum(_lost(path.read_text()) for path in (self._folder / "per_cpu").glob("cpu*/stats"))

    def close(self) -> None:
        """Stop and remove it; never raises."""
        with contextlib.suppress(OSError):
            (self._folder / "events/enable").write_text("0")
        with contextlib.suppress(OSError):
            self._folder.rmdir()
        self._stack.close()


def realtime_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC: the best of several readings, for in a lab reading a clock takes 10 us."""
    readings = []
    for _ in range(20):
        before = time.monotonic_ns()
        now = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, now - (before + after) // 2))
    return min(readings)[1]


def _lost(stats: str) -> int:
    counted = (line.partition(":") for line in stats.splitlines())
    return sum(int(value) for name, _, value in counted if name in ("overrun", "dropped events", "commit overrun"))
