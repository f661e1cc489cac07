"""What an interface's queueing disciplines have dropped: no counter of the link tells that."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cprlib.linux.namespace import NetworkNamespace


class Side(enum.IntEnum):
    """Where a queue sits; the value is its parent as the kernel names it (linux/pkt_sched.h)."""

    EGRESS = 0xFFFFFFFF  # TC_H_ROOT
    INGRESS = 0xFFFFFFF1  # TC_H_INGRESS


@dataclass(frozen=True, slots=True)
class QueueCount:
    """Packets that went through a queue, and packets that it or a filter on it dropped (TCA_STATS2)."""

    passed: int
    dropped: int


def read_queue(namespace: NetworkNamespace, interface: str, handle: int) -> QueueCount | None:
    """The counters of one queue; None when there is no such queue."""
    return _counted(namespace, interface, "handle", handle)


def read_queue_drops(namespace: NetworkNamespace, interface: str) -> dict[Side, int]:
    """Packets dropped on the way out and on the way in since the queues were made; 0 where there is no queue.

    A classful queue counts what its children dropped too (prio_enqueue(), net/sched/sch_prio.c). ``clsact`` has one
    counter for both ways, which stands as the way in.
    """
    drops = {}
    for side in Side:
        counted = _counted(namespace, interface, "parent", side.value)
        drops[side] = 0 if counted is None else counted.dropped
    return drops


def _counted(namespace: NetworkNamespace, interface: str, field: str, value: int) -> QueueCount | None:
    for message in namespace.netlink.get_qdiscs(index=namespace.index(interface)):
        statistics = message.get_attr("TCA_STATS2")
        if message[field] == value and statistics is not None:
            passed, dropped = statistics.get_attr("TCA_STATS_BASIC"), statistics.get_attr("TCA_STATS_QUEUE")
            return QueueCount(int(passed["packets"]), int(dropped["drops"]))
    return None
