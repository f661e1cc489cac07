"""Counters of links, as the kernel keeps them (IFLA_STATS64, linux/if_link.h)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cprlib.errors import InstrumentError
from cprlib.linux.namespace import NetworkNamespace


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Packets of one link since it was made. For a tap, ``tx`` is towards the guest."""

    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int

    def since(self, before: LinkCounters) -> LinkCounters:
        """Differences to an earlier reading of the same link."""
        return LinkCounters(
            **{item.name: getattr(self, item.name) - getattr(before, item.name) for item in fields(self)}
        )


def read_counters(namespace: NetworkNamespace, interface: str) -> LinkCounters:
    """Read the counters of a link.

    :raises InstrumentError: the kernel gave none; absent counters are never taken for zero.
    """
    message = namespace.netlink.link("get", index=namespace.index(interface))[0]
    statistics = message.get("stats64")
    if statistics is None:
        raise InstrumentError(f"read the counters of {interface}", "the kernel gave no IFLA_STATS64")
    return LinkCounters(**{item.name: int(statistics[item.name]) for item in fields(LinkCounters)})
