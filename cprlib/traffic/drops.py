"""The kernel's own account of dropped packets: the tracepoint skb:kfree_skb, read through tracefs.

Needs root and a kernel with that tracepoint, as the lab's is. Where it is absent the report says so: an empty list of
drops means that nothing was dropped only when :attr:`DropReport.available` is true.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cprlib.linux.trace_instance import TRACEFS, TraceInstance, realtime_offset_ns

EVENT = "skb/kfree_skb"
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
        self._instance = TraceInstance(tracefs)
        self._why = "the trace was not started"

    def __enter__(self) -> DropTrace:
        self._why = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._instance.close()

    def _start(self) -> str:
        try:
            if not (self._tracefs / "events" / EVENT).is_dir():
                return f"no tracepoint skb:kfree_skb below {self._tracefs}"
            self._instance.make()
            layout = (self._instance.event(EVENT) / "format").read_text()
            numbers = {name: number for number, name in _REASON.findall(layout)}
            unwanted = [f"reason != {numbers[name]}" for name in IGNORED if name in numbers]
            self._instance.enable(EVENT, " && ".join(unwanted))
        except OSError as error:
            return f"tracefs refused: {error}"
        return ""

    def report(self) -> DropReport:
        """Everything dropped so far."""
        if self._why:
            return DropReport(False, self._why)
        try:
            text, lost = self._instance.text(), self._instance.lost()
        except OSError as error:
            return DropReport(False, f"the trace could not be read: {error}")
        return DropReport(True, "", parse_trace(text, realtime_offset_ns()), lost)


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
