"""The kernel's own account of dropped packets: the tracepoint skb:kfree_skb, read through tracefs.

Needs root and a kernel with that tracepoint, as the lab's is. Where it is absent the report says so: an empty list of
drops means that nothing was dropped only when :attr:`DropReport.available` is true.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

TRACEFS = Path("/sys/kernel/tracing")
BUFFER_KIB = 8192  # per processor; an event takes some 60 octets
IGNORED = ("SOCKET_FILTER",)  # the answers that HeldPorts throws away
_LINE = re.compile(
    r"\s(?P<seconds>\d+)\.(?P<micros>\d{6}): kfree_skb: .*?protocol=(?P<protocol>\d+)"
    r" location=(?P<location>\S+)(?: reason: (?P<reason>\S+))?"
)
_REASON = re.compile(r'\{ (\d+|0x[0-9a-f]+), "(\w+)" \}')


@dataclass(frozen=True, slots=True)
class DropEvent:
    """One packet that the kernel dropped.

    :param time_ns: CLOCK_REALTIME, to the microsecond.
    :param protocol: Ethernet type.
    :param place: the function that dropped it, :param reason: enum skb_drop_reason without its prefix.
    """

    time_ns: int
    protocol: int
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class DropReport:
    """What the tracepoint told.

    :param available: False when nothing is known; :attr:`why` then says why.
    :param lost: events that the trace buffer itself lost.
    """

    available: bool
    why: str
    events: tuple[DropEvent, ...] = ()
    lost: int = 0


class DropTrace:
    """Records packet drops of the whole kernel while its body runs; ask :meth:`report` at the end of the body.

    Uses an instance of its own in tracefs, which is removed at the end. Never raises: what is missing is reported.
    """

    def __init__(self, tracefs: Path = TRACEFS) -> None:
        self._tracefs = tracefs
        self._instance = tracefs / "instances" / f"cprlib-{os.getpid()}-{time.monotonic_ns()}"
        self._why = "the trace was not started"

    def __enter__(self) -> DropTrace:
        self._why = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            (self._instance / "events/skb/kfree_skb/enable").write_text("0")
        with contextlib.suppress(OSError):
            self._instance.rmdir()

    def _start(self) -> str:
        event = self._instance / "events/skb/kfree_skb"
        try:
            if not (self._tracefs / "events/skb/kfree_skb").is_dir():
                return f"no tracepoint skb:kfree_skb below {self._tracefs}"
            self._instance.mkdir()
            (self._instance / "trace_clock").write_text("mono")
            (self._instance / "buffer_size_kb").write_text(str(BUFFER_KIB))
            numbers = {name: number for number, name in _REASON.findall((event / "format").read_text())}
            unwanted = [f"reason != {numbers[name]}" for name in IGNORED if name in numbers]
            if unwanted:
                (event / "filter").write_text(" && ".join(unwanted))
            (event / "enable").write_text("1")
        except OSError as error:
            return f"tracefs refused: {error}"
        return ""

    def report(self) -> DropReport:
        """Everything dropped so far."""
        if self._why:
            return DropReport(False, self._why)
        try:
            text = (self._instance / "trace").read_text(errors="replace")
            offset = realtime_offset_ns()
            lost = sum(_lost(path.read_text()) for path in (self._instance / "per_cpu").glob("cpu*/stats"))
        except OSError as error:
            return DropReport(False, f"the trace could not be read: {error}")
        return DropReport(True, "", parse_trace(text, offset), lost)


def realtime_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC: the best of several readings, for in a lab reading a clock takes 10 us."""
    readings = []
    for _ in range(20):
        before = time.monotonic_ns()
        now = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, now - (before + after) // 2))
    return min(readings)[1]


def parse_trace(text: str, offset_ns: int) -> tuple[DropEvent, ...]:
    """The kfree_skb lines of a trace in ftrace's text format.

    :param offset_ns: what to add to the trace's clock to get CLOCK_REALTIME.
    """
    events = []
    for line in text.splitlines():
        found = _LINE.search(line)
        if found is None:
            continue
        moment = int(found["seconds"]) * 1_000_000_000 + int(found["micros"]) * 1000
        place = found["location"].split("+", 1)[0]
        events.append(DropEvent(moment + offset_ns, int(found["protocol"]), place, found["reason"] or "NOT_SPECIFIED"))
    return tuple(events)


def _lost(stats: str) -> int:
    """Events overwritten or dropped, from per_cpu/cpuN/stats."""
    total = 0
    for line in stats.splitlines():
        name, _, value = line.partition(":")
        if name in ("overrun", "dropped events", "commit overrun"):
            total += int(value)
    return total
