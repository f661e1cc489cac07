"""Packet counters of links (IFLA_STATS64, linux/if_link.h) and of their queueing disciplines (TCA_STATS2)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields

from cprlib.errors import InstrumentError
from cprlib.linux.namespace import NetworkNamespace


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Packets of one link since its creation. For a tap, ``tx`` is towards the guest."""

    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int


def read_counters(namespace: NetworkNamespace, interface: str) -> LinkCounters:
    """Read the counters of a link.

    :raises InstrumentError: the kernel gave none; absent counters never count as zero.
    """
    message = namespace.netlink.link("get", index=namespace.index(interface))[0]
    statistics = message.get("stats64")
    if statistics is None:
        raise InstrumentError(f"read the counters of {interface}", "the kernel gave no IFLA_STATS64")
    return LinkCounters(**{item.name: int(statistics[item.name]) for item in fields(LinkCounters)})


def read_link_errors(namespace: NetworkNamespace, interface: str) -> Mapping[str, int]:
    """All error counters of a link: ``rx_errors``, ``rx_frame_errors``, ``tx_carrier_errors``, ``collisions``, ...

    :raises InstrumentError: the kernel gave none.
    """
    statistics = namespace.netlink.link("get", index=namespace.index(interface))[0].get("stats64")
    if statistics is None:
        raise InstrumentError(f"read the counters of {interface}", "the kernel gave no IFLA_STATS64")
    return {name: int(count) for name, count in statistics.items() if "error" in name or name == "collisions"}


class QdiscSide(enum.IntEnum):
    """Where a queueing discipline is attached; the value is its parent handle (linux/pkt_sched.h)."""

    EGRESS = 0xFFFFFFFF  # TC_H_ROOT
    INGRESS = 0xFFFFFFF1  # TC_H_INGRESS


@dataclass(frozen=True, slots=True)
class QueueCount:
    """Packets that passed a queueing discipline, and packets that it or a filter on it dropped."""

    passed: int
    dropped: int


def read_queue(namespace: NetworkNamespace, interface: str, value: int, field: str = "handle") -> QueueCount | None:
    """The counters of one queueing discipline; None when it does not exist.

    :param value: its handle, or its parent with ``field="parent"``.
    """
    for message in namespace.netlink.get_qdiscs(index=namespace.index(interface)):
        statistics = message.get_attr("TCA_STATS2")
        if message[field] == value and statistics is not None:
            passed, dropped = statistics.get_attr("TCA_STATS_BASIC"), statistics.get_attr("TCA_STATS_QUEUE")
            return QueueCount(int(passed["packets"]), int(dropped["drops"]))
    return None


def read_queue_drops(namespace: NetworkNamespace, interface: str) -> dict[QdiscSide, int]:
    """Packets dropped by the queueing disciplines of an interface since their creation; 0 for an absent one.

    A classful one includes the drops of its children (prio_enqueue(), net/sched/sch_prio.c). ``clsact`` has one
    counter for both sides, reported as ingress.
    """
    counts = {side: read_queue(namespace, interface, side.value, field="parent") for side in QdiscSide}
    return {side: count.dropped if count else 0 for side, count in counts.items()}
