"""vhost workers created and ended, and the tasks that read and write the tap, from tracepoints.

- ``sched:sched_wakeup_new`` of a task ``vhost-<pid>``: VHOST_SET_OWNER has created a worker (kernel/vhost_task.c);
- ``sched:sched_process_exit`` of such a task: VHOST_RESET_OWNER, or the end of its QEMU, has ended it;
- ``sched:sched_waking`` of its owner by such a task: it works, or, the last time before its exit, ends.
  VHOST_RESET_OWNER waits for that, and returns before the task exits (vhost_task_fn(), kernel/vhost_task.c). Others
  are woken by interrupts as well, which come in the middle of any task;
- ``skb:consume_skb`` in ``tun_do_read()``: a task, a worker or QEMU's main loop, has read a packet from a tap;
- ``net:netif_receive_skb_entry`` for a tap: a task has written a packet of the guest into it (drivers/net/tun.c).

The taps are those of the whole host. A reader or writer in another network namespace is of another VM: the QEMUs of a
case run in the one that has its taps.

This does not depend on any message of QEMU, so it also finds a silent fall back to userspace virtio.
"""

from __future__ import annotations

import enum
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cprlib.errors import InstrumentError
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.tracefs import TRACEFS, EventUnusable, Filter, TraceLine, Tracepoints

ETH_P_RARP = 0x8035  # linux/if_ether.h
_WORKER = re.compile(r"^vhost-(?P<owner>\d+)$")
NO_NAME = "<...>"  # ftrace's name of a task that is not in saved_cmdlines any more
_FIELD = re.compile(r"(\w+)=(\S+)")


def reads_of_taps(layout: str) -> str:
    """The filter of consume_skb, from its format file.

    :raises EventUnusable: it does not have the function that has consumed the packet, before Linux 6.3.
    """
    if " location;" not in layout:
        raise EventUnusable("has no field location, which Linux 6.3 added: who reads the tap is unknown, use the lab")
    return "location.function == tun_do_read"


_FILTERS: Mapping[str, Filter] = {
    "sched/sched_wakeup_new": 'comm ~ "vhost-*"',
    "sched/sched_process_exit": 'comm ~ "vhost-*"',
    "sched/sched_waking": 'COMM ~ "vhost-*"',  # by the task that wakes, not the one that is woken
    "skb/consume_skb": reads_of_taps,
    # RARP is QEMU's own announcement of the guest (qemu_announce_self(), net/announce.c), sent by its main loop
    "net/netif_receive_skb_entry": f'name ~ "tap*" && protocol != {ETH_P_RARP}',
}


class Act(enum.StrEnum):
    """Kinds of events, by the tracepoints of :data:`_FILTERS`."""

    WORKER_MADE = "sched_wakeup_new"
    WORKER_ENDED = "sched_process_exit"
    WORKER_WAKES = "sched_waking"
    TAP_READ = "consume_skb"
    TAP_WRITTEN = "netif_receive_skb_entry"


def owner_of(event: TraceLine) -> int | None:
    """Process id of the worker's QEMU; None when the task is not a worker."""
    found = _WORKER.match(event.comm)
    return int(found["owner"]) if found else None


@dataclass(frozen=True, slots=True)
class KernelReport:
    """Events so far.

    :param unavailable: reason why nothing is known; empty when the trace works.
    :param unseen: what this kernel does not report, with the reason.
    """

    unavailable: str
    events: tuple[TraceLine, ...] = ()
    unseen: Mapping[Act, str] = field(default_factory=dict)

    def unseen_reason(self, *acts: Act) -> str:
        """Reason why one of these is not known; empty when all are."""
        return self.unavailable or next((self.unseen[act] for act in acts if act in self.unseen), "")

    def of(self, act: Act, *, since_ns: int = 0) -> tuple[TraceLine, ...]:
        """Events of one kind from a time on."""
        return tuple(item for item in self.events if item.event == act and since_ns <= item.time_ns)

    def worker_stopped_ns(self, owner: int, since_ns: int) -> int | None:
        """When the last vhost worker of a process stopped; None when none has ended.

        The kernel reports the exit of a worker some ms after it has stopped, more on a busy machine. So this is the
        last work of that worker before its exit.

        :param since_ns: a worker that ended after this time has stopped after it too.
        """
        ended = {item.task: item.time_ns for item in self.of(Act.WORKER_ENDED) if owner_of(item) == owner}
        works = (Act.WORKER_WAKES, Act.TAP_READ, Act.TAP_WRITTEN)
        worked = {
            item.task: item.time_ns
            for item in self.events
            if item.event in works and item.time_ns <= ended.get(item.task, 0)  # an ended task still wakes others
        }
        stopped = (min(max(worked.get(task, exit_ns), since_ns), exit_ns) for task, exit_ns in ended.items())
        return max(stopped, default=None)

    def at_tap(self, act: Act, *, since_ns: int = 0) -> dict[str, int]:
        """Packets by reader or writer: ``vhost-<pid>`` for all workers of a QEMU, else name and thread id."""
        seen = self.of(act, since_ns=since_ns)
        return dict(Counter(item.comm if owner_of(item) else f"{item.comm} ({item.task})" for item in seen))

    def other_carriers(self, pid: int, since_ns: int) -> str:
        """Who reads and writes the taps, unless it is vhost's workers of one QEMU alone; empty then.

        :param pid: that QEMU's.
        :raises InstrumentError: the kernel was not traced, or a name is not known.
        """
        tried = "see who carries the guest's packets"
        if reason := self.unseen_reason(Act.TAP_READ, Act.TAP_WRITTEN):
            raise InstrumentError(tried, reason)
        readers, writers = (self.at_tap(act, since_ns=since_ns) for act in (Act.TAP_READ, Act.TAP_WRITTEN))
        if set(readers) == set(writers) == {f"vhost-{pid}"}:
            return ""
        names = {*readers, *writers}
        nameless = {name for name in names if name.startswith(NO_NAME)}
        if nameless and names - nameless <= {f"vhost-{pid}"}:
            raise InstrumentError(tried, "ftrace has lost the name of a task", "repeat it with fewer programs running")
        return f"packets are read by {readers}, written by {writers}"


class KernelTrace(Tracepoints):
    """Records while its body runs; call :meth:`report` inside. Never raises: the report says what is missing.

    :param namespace: of the case's QEMUs and taps.
    """

    def __init__(self, namespace: NetworkNamespace, tracefs: Path = TRACEFS) -> None:
        super().__init__(_FILTERS, tracefs)
        self._namespace = namespace

    def report(self) -> KernelReport:
        trace = self.read()
        if trace.lost:  # the oldest ones, without which those of the source look complete
            return KernelReport(f"the kernel's trace lost {trace.lost} events")
        events = kernel_events(trace.lines)
        processes = {owner_of(item) or item.task for item in events if item.event in (Act.TAP_READ, Act.TAP_WRITTEN)}
        others = {process for process in processes if self._is_elsewhere(process)}
        seen = (item for item in events if (owner_of(item) or item.task) not in others)
        unseen = {Act(event.rpartition("/")[2]): reason for event, reason in trace.left_out.items()}
        return KernelReport(trace.unavailable, tuple(seen), unseen)

    def _is_elsewhere(self, process: int) -> bool:
        """Whether a process is in another network namespace; False for one that has ended, which may be the case's."""
        try:
            return not os.path.samestat(os.stat(f"/proc/{process}/ns/net"), os.fstat(self._namespace.descriptor))
        except OSError:
            return False


def kernel_events(lines: Iterable[TraceLine]) -> tuple[TraceLine, ...]:
    """The events; task and name of one about a worker are the worker's."""
    return tuple(found for line in lines if (found := _about_worker(line)))


def _about_worker(line: TraceLine) -> TraceLine | None:
    if line.event in (Act.TAP_READ, Act.TAP_WRITTEN):  # of each packet, so their text is not searched
        return line
    fields = dict(_FIELD.findall(line.text))
    if line.event != Act.WORKER_WAKES:
        return replace(line, task=int(fields["pid"]), comm=fields["comm"])
    return line if owner_of(line) == int(fields["pid"]) else None  # of others than its owner
