"""Packet counters: of links (IFLA_STATS64), of their queueing disciplines (TCA_STATS2), and of the IP stack."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cprlib.errors import InstrumentError
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.procfs import read_text

STACK_FILES = Path("/proc/thread-self/net")  # /proc/net is the namespace of the process's first thread


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Packets of one link since its creation. For a tap and a macvtap, ``tx`` is towards the guest."""

    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int


def read_counters(namespace: NetworkNamespace, interface: str) -> LinkCounters:
    """Read the counters of a link.

    A macvtap counts as the upper end of its lower link, a tap as the host's end of a cable to the guest.

    :raises InstrumentError: the kernel gave none; absent counters never count as zero.
    """
    statistics, kind = _statistics(namespace, interface)
    names = {item.name: item.name for item in fields(LinkCounters)}
    if kind == "macvtap":
        names = {name: f"{'tx' if name.startswith('rx') else 'rx'}{name[2:]}" for name in names}
    return LinkCounters(**{name: int(statistics[counter]) for name, counter in names.items()})


def read_link_errors(namespace: NetworkNamespace, interface: str) -> Mapping[str, int]:
    """All error counters of a link: ``rx_errors``, ``rx_frame_errors``, ``tx_carrier_errors``, ``collisions``, ...

    :raises InstrumentError: the kernel gave none.
    """
    statistics, _ = _statistics(namespace, interface)
    return {name: int(count) for name, count in statistics.items() if "error" in name or name == "collisions"}


def _statistics(namespace: NetworkNamespace, interface: str) -> tuple[Mapping[str, Any], str]:
    """Counters and kind of a link."""
    message = namespace.netlink.link("get", index=namespace.index(interface))[0]
    statistics: Mapping[str, Any] | None = message.get("stats64")
    if statistics is None:
        raise InstrumentError(f"read the counters of {interface}", "the kernel gave no IFLA_STATS64")
    return statistics, str(message.get(("linkinfo", "kind")))


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


def parse_snmp(text: str) -> dict[str, int]:
    """The counters of /proc/net/snmp, which has a line of names and a line of values for each protocol.

    :returns: by protocol and name: ``Ip.InHdrErrors``.
    """
    counters = {}
    lines = iter(text.splitlines())
    for names, values in zip(lines, lines, strict=False):
        protocol, *fields = names.split()
        for name, value in zip(fields, values.split()[1:], strict=False):
            counters[f"{protocol.rstrip(':')}.{name}"] = int(value)
    return counters


def parse_snmp6(text: str) -> dict[str, int]:
    """The counters of /proc/net/snmp6: ``Ip6InHdrErrors``."""
    return {name: int(value) for name, value, *_ in (line.split() for line in text.splitlines())}


def read_stack_counters(namespace: NetworkNamespace) -> Mapping[str, int]:
    """The counters of a namespace, with the names that the guest's agent uses."""
    with namespace.entered():
        version4, version6 = (STACK_FILES / "snmp").read_text(), read_text(STACK_FILES / "snmp6")
    return parse_snmp(version4) | parse_snmp6(version6)
