"""What the kernel saw QEMU do: vhost workers made and ended, and who reads and writes the tap.

Read from tracepoints, on the harness's clock:

- ``sched:sched_wakeup_new`` of a task ``vhost-<pid>``: VHOST_SET_OWNER has made a worker (kernel/vhost_task.c);
- ``sched:sched_process_exit`` of such a task: VHOST_RESET_OWNER, or the end of its QEMU, has ended it;
- ``skb:consume_skb`` in ``tun_do_read()``: a task took a packet off a tap, be it a worker or QEMU's main loop;
- ``net:netif_receive_skb_entry`` for a tap: a task wrote a packet of the guest's into it (drivers/net/tun.c).

Nothing that a QEMU says of itself is needed, so a QEMU that is silent about a fall back to userspace is found too.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cprlib.linux.trace_instance import TRACEFS, TraceInstance, realtime_offset_ns

ETH_P_RARP = 0x8035  # linux/if_ether.h; sent by qemu_announce_self(), net/announce.c of QEMU
WORKER = re.compile(r"^vhost-(?P<owner>\d+)$")
_LINE = re.compile(
    r"^\s*(?P<comm>.+)-(?P<task>\d+)\s+\[\d+\]\s+(?:\S+\s+)?"
    r"(?P<seconds>\d+)\.(?P<micros>\d{6}): (?P<event>\w+): (?P<text>.*)$"
)
_FIELD = re.compile(r"(\w+)=(\S+)")


class Act(enum.StrEnum):
    """What happened."""

    WORKER_MADE = "worker made"
    WORKER_ENDED = "worker ended"
    TAP_READ = "packet taken off a tap"
    TAP_WRITTEN = "packet written into a tap"


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One event.

    :param time_ns: CLOCK_REALTIME, to the microsecond.
    :param task: thread id of the worker or the reader.
    :param name: of that thread; ``vhost-<pid of its owner>`` for a worker.
    """

    time_ns: int
    act: Act
    task: int
    name: str

    @property
    def owner(self) -> int | None:
        """Process id of the QEMU that a worker works for; None when it is no worker."""
        found = WORKER.match(self.name)
        return int(found["owner"]) if found else None


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What the tracepoints told.

    :param available: False when nothing is known; :attr:`why` then says why.
    :param lost: events that the trace buffer itself lost.
    """

    available: bool
    why: str
    events: tuple[KernelEvent, ...] = ()
    lost: int = 0

    def of(self, act: Act, *, since_ns: int = 0, until_ns: int | None = None) -> tuple[KernelEvent, ...]:
        """Events of one sort in a span of time."""
        end = until_ns if until_ns is not None else max((item.time_ns for item in self.events), default=0)
        return tuple(item for item in self.events if item.act is act and since_ns <= item.time_ns <= end)

    def at_tap(self, act: Act, *, since_ns: int = 0) -> dict[str, int]:
        """How many packets each reader or writer had: ``vhost-<pid>`` for a QEMU's workers, else name and thread id."""
        seen = self.of(act, since_ns=since_ns)
        return dict(Counter(item.name if item.owner else f"{item.name} ({item.task})" for item in seen))


class KernelTrace:
    """Records while its body runs; ask :meth:`report` inside it. Never raises: what is missing is reported."""

    def __init__(self, tracefs: Path = TRACEFS) -> None:
        self._instance = TraceInstance(tracefs)
        self._why = "the trace was not started"

    def __enter__(self) -> KernelTrace:
        try:
            self._start()
            self._why = ""
        except OSError as error:
            self._why = f"tracefs refused: {error}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._instance.close()

    def _start(self) -> None:
        self._instance.make()
        wanted = {
            "sched/sched_wakeup_new": 'comm ~ "vhost-*"',
            "sched/sched_process_exit": 'comm ~ "vhost-*"',
            "skb/consume_skb": "location.function == tun_do_read",
            # a target announces its guest's address by RARP, from its main loop and not for the guest
            "net/netif_receive_skb_entry": f'name ~ "tap*" && protocol != {ETH_P_RARP}',
        }
        for event, condition in wanted.items():
            self._instance.enable(event, condition)

    def report(self) -> KernelReport:
        """Everything so far."""
        if self._why:
            return KernelReport(False, self._why)
        try:
            text, lost = self._instance.text(), self._instance.lost()
        except OSError as error:
            return KernelReport(False, f"the trace could not be read: {error}")
        return KernelReport(True, "", parse_events(text.splitlines(), realtime_offset_ns()), lost)


def parse_events(lines: Iterable[str], offset_ns: int) -> tuple[KernelEvent, ...]:
    """Read ftrace's text format.

    :param offset_ns: what to add to the trace's clock to get CLOCK_REALTIME.
    """
    events = []
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            continue
        fields = dict(_FIELD.findall(found["text"]))
        moment = int(found["seconds"]) * 1_000_000_000 + int(found["micros"]) * 1000 + offset_ns
        match found["event"]:
            case "sched_wakeup_new":
                events.append(KernelEvent(moment, Act.WORKER_MADE, int(fields["pid"]), fields["comm"]))
            case "sched_process_exit":
                events.append(KernelEvent(moment, Act.WORKER_ENDED, int(fields["pid"]), fields["comm"]))
            case "consume_skb":
                events.append(KernelEvent(moment, Act.TAP_READ, int(found["task"]), found["comm"]))
            case "netif_receive_skb_entry":
                events.append(KernelEvent(moment, Act.TAP_WRITTEN, int(found["task"]), found["comm"]))
    return tuple(events)
