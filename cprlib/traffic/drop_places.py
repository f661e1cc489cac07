"""Where a drop of the kernel belongs: its events joined to missing packets by place and time.

An event names the function that dropped a packet, not the interface. Most functions belong to one hop; those that any
interface may run (queueing disciplines, filters) leave a choice, which the counters of the hops decide.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from cprlib.traffic.drops import DropEvent, DropReport
from cprlib.traffic.hops import Direction

LONGEST_WAY_NS = 50_000_000  # from sending (or reflecting) a packet to its being dropped in the host's kernel
CLOCK_ERROR_NS = 20_000  # the trace's clock against CLOCK_REALTIME: a packet may seem to be sent after it was dropped
PROTOCOLS = {"ipv4": 0x0800, "ipv6": 0x86DD}  # Ethernet type of a flow by the beginning of its name

#: Functions of the kernel in which a packet is dropped: hop and direction, None for either.
PLACES: Mapping[str, tuple[str, Direction | None]] = {
    "tun_net_xmit": ("tap queue", Direction.FORWARD),
    "tun_do_read": ("tap queue", Direction.FORWARD),
    "tun_recvmsg": ("tap queue", Direction.FORWARD),
    "tun_queue_purge": ("tap queue", Direction.FORWARD),
    "tun_get_user": ("qemu", Direction.RETURN),
    "tun_sendmsg": ("qemu", Direction.RETURN),
    "veth_xmit": ("switch", None),
    "br_": ("switch", None),
    **dict.fromkeys(
        ("ip_", "ip6_", "ipv6_", "icmp", "udp", "__udp", "tcp_", "arp_", "ndisc_"), ("station", Direction.RETURN)
    ),
    "packet_": ("capture", Direction.RETURN),
    "tpacket_": ("capture", Direction.RETURN),
}

#: Functions that any interface may run: queueing disciplines, filters, the core of sending and receiving.
ANYWHERE = (
    *("__dev_queue_xmit", "__dev_xmit", "dev_hard_start_xmit", "__netif_receive_skb", "enqueue_to_backlog"),
    *(
        "tcf_",
        "__tcf_",
        "tc_",
        "sch_",
        "qdisc_",
        "__qdisc_",
        "netem_",
        "prio_",
        "pfifo",
        "fq_",
        "codel",
        "htb_",
        "tbf_",
    ),
)


class Missing(Protocol):
    """What is used here of :class:`cprlib.traffic.ledger.MissingPacket`."""

    @property
    def direction(self) -> Direction: ...
    @property
    def flow(self) -> str: ...
    @property
    def sent_ns(self) -> int: ...


Packet = TypeVar("Packet", bound=Missing)


def place_by_events(
    waiting: list[Packet],
    drops: DropReport,
    accounts: Mapping[str, int] | None = None,
    clock_error_ns: int = CLOCK_ERROR_NS,
    *,
    unknown: bool = False,
) -> list[Packet]:
    """Join each drop event to the latest packet sent before it, on a way no longer than LONGEST_WAY_NS.

    :param waiting: missing packets of one direction, in order of sending; those that are placed are taken out.
    :param accounts: packets that did not leave each hop of this direction, in the order of the way.
    :param clock_error_ns: how far the packets' clock may be off; at least :data:`CLOCK_ERROR_NS` is allowed.
    :param unknown: take the events of functions that are not known, instead of the others: they may be about packets of
        others (a fragment given up, a neighbour that never answered), so counters come before them.
    :returns: those placed, with hop and reason.
    """
    left = dict(accounts or {})
    slack = max(CLOCK_ERROR_NS, clock_error_ns)
    placed = []
    for event in drops.events:
        moments = [packet.sent_ns for packet in waiting]
        index = bisect.bisect_right(moments, event.time_ns + slack) - 1
        if index < 0 or event.time_ns - moments[index] > LONGEST_WAY_NS:
            continue
        packet = waiting[index]
        if event.protocol != PROTOCOLS.get(packet.flow.partition(":")[0]):
            continue
        if unknown == _known(event.place):
            continue
        hop = f"kernel: {event.place}" if unknown else _hop(event, packet.direction, left)
        if hop is None:
            continue
        if hop in left:
            left[hop] -= 1
        placed.append(_with_place(waiting.pop(index), hop, f"{event.reason} in {event.place}"))
    return placed


def _with_place(packet: Packet, hop: str, reason: str) -> Packet:
    return replace(packet, hop=hop, reason=reason)  # type: ignore[type-var]


def _known(place: str) -> bool:
    return place.startswith((*PLACES, *ANYWHERE))


def _hop(event: DropEvent, direction: Direction, left: Mapping[str, int]) -> str | None:
    """The hop of an event for a packet of this direction; None when it cannot be such a packet's."""
    for prefix, (hop, only) in PLACES.items():
        if event.place.startswith(prefix):
            return hop if only in (None, direction) else None
    open_hops: Sequence[str] = [hop for hop, count in left.items() if count > 0]
    return open_hops[0] if open_hops else f"kernel: {event.place}"
