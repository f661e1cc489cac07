"""Tracepoints of the kernel, recorded into a private trace instance of tracefs.

Needs root and a kernel with these tracepoints, as in the lab.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cprlib.cleanup import CleanupProcess
from cprlib.errors import EnvironmentFailure

TRACEFS = Path("/sys/kernel/tracing")
BUFFER_KIB, LEAST_KIB, ALL_KIB = 8192, 512, 65536  # of a processor, and of all; an event takes about 60 bytes
_LINE = re.compile(
    r"^\s*(?P<comm>.+)-(?P<task>\d+)\s+\[\d+\]\s+(?:\S+\s+)?"
    r"(?P<seconds>\d+)\.(?P<micros>\d{6}): (?P<event>\w+): (?P<text>.*)$"
)
_LOSSES = ("overrun", "dropped events", "commit overrun")

Filter = str | Callable[[str], str]
"""A filter of an event (Documentation/trace/events.rst), empty for none, or a function that makes it from the event's
``format`` file. A function raises :class:`EventUnusable` when this kernel's event does not have what is needed."""


class EventUnusable(Exception):
    """An event that this kernel has, without a field that is needed; its text says which. The trace leaves it out."""


@dataclass(frozen=True, slots=True)
class TraceLine:
    """One recorded event.

    :param time_ns: CLOCK_REALTIME, to the microsecond.
    :param comm: name of the thread in whose context it happened.
    :param task: id of that thread.
    :param text: the event's fields, as its ``print fmt`` shows them.
    """

    time_ns: int
    comm: str
    task: int
    event: str
    text: str


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything recorded so far.

    :param unavailable: reason why nothing is known; empty when the trace works.
    :param lost: events lost by the trace buffer (overwritten or dropped).
    :param left_out: events that are not recorded, with the reason.
    """

    unavailable: str
    lines: tuple[TraceLine, ...] = ()
    lost: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


class Tracepoints:
    """Records tracepoints while its body runs, on CLOCK_MONOTONIC. Never raises: :meth:`read` says what is missing.

    :param filters: for each event, named ``skb/kfree_skb``.
    :param tracefs: its mount point.
    """

    def __init__(self, filters: Mapping[str, Filter], tracefs: Path = TRACEFS) -> None:
        self._filters = filters
        self._tracefs = tracefs
        self._instance = tracefs / "instances" / f"cprlib-{os.getpid()}-{time.monotonic_ns()}"
        self._stack = contextlib.ExitStack()
        self._unavailable = "the trace was not started"
        self._left_out: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            missing = ", ".join(event for event in self._filters if not (self._tracefs / "events" / event).is_dir())
            self._unavailable = f"tracefs refused: no tracepoint {missing} below {self._tracefs}" if missing else ""
            if not missing:
                self._start()
        except OSError as error:
            self._unavailable = f"tracefs refused: {error}"
        except EnvironmentFailure as error:
            self._unavailable = error.one_line()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            (self._instance / "events/enable").write_text("0")
        with contextlib.suppress(OSError):
            self._instance.rmdir()
        self._stack.close()

    def _start(self) -> None:
        if not os.environ.get("CPRLIB_LAB") and os.access(self._instance.parent, os.W_OK):
            # the instance would outlive a killed harness on the host; a lab's kernel ends with its test
            self._stack.enter_context(CleanupProcess()).instance(self._instance)
        self._instance.mkdir()
        (self._instance / "trace_clock").write_text("mono")
        share = max(LEAST_KIB, min(BUFFER_KIB, ALL_KIB // (os.cpu_count() or 1)))
        (self._instance / "buffer_size_kb").write_text(str(share))  # for each processor
        for event, wanted in self._filters.items():
            folder = self._instance / "events" / event
            try:
                condition = wanted if isinstance(wanted, str) else wanted((folder / "format").read_text())
            except EventUnusable as error:
                self._left_out[event] = f"{event} {error}"
                continue
            if condition:
                (folder / "filter").write_text(condition)
            (folder / "enable").write_text("1")

    def read(self) -> Trace:
        if self._unavailable:
            return Trace(self._unavailable)
        try:
            text = (self._instance / "trace").read_text(errors="replace")
            lost = sum(_lost(path.read_text()) for path in (self._instance / "per_cpu").glob("cpu*/stats"))
        except OSError as error:
            return Trace(f"the trace could not be read: {error}")
        return Trace("", parse_ftrace(text, realtime_offset_ns()), lost, self._left_out)


def parse_ftrace(text: str, offset_ns: int) -> tuple[TraceLine, ...]:
    """Parse ftrace's text format.

    :param offset_ns: difference of CLOCK_REALTIME to the trace's clock.
    """
    lines = []
    for line in text.splitlines():
        if found := _LINE.match(line):
            time_ns = int(found["seconds"]) * 1_000_000_000 + int(found["micros"]) * 1000 + offset_ns
            lines.append(TraceLine(time_ns, found["comm"], int(found["task"]), found["event"], found["text"]))
    return tuple(lines)


def realtime_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC: the best of several readings, as one reading takes 10 us in a lab."""
    readings = []
    for _ in range(20):
        before = time.monotonic_ns()
        now = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, now - (before + after) // 2))
    return min(readings)[1]


def _lost(stats: str) -> int:
    """Events lost on one processor, from the text of per_cpu/cpuN/stats."""
    counters = (line.partition(":") for line in stats.splitlines())
    return sum(int(value) for name, _, value in counters if name in _LOSSES)
