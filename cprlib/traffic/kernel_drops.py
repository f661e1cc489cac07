"""Packets that the kernel dropped, by its tracepoint skb:kfree_skb, and the hop that each of them belongs to.

The tracepoint needs root and tracefs, as in the lab. An empty list of events means that nothing was dropped only when
:attr:`DropReport.unavailable` is empty.

An event names the function that dropped a packet, not the interface. Most functions belong to one hop. Functions that
every interface runs (queueing disciplines, filters) leave a choice, which the counters of the hops decide.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.linux.tracefs import TRACEFS, TraceLine, Tracepoints
from cprlib.traffic.figures import Direction, HopName

EVENT = "skb/kfree_skb"
IGNORED_REASONS = ("SOCKET_FILTER",)  # answers that session.reserved_ports() discards
# %pS names the module of a function that is in one: tun_net_xmit+0x2c1/0x540 [tun]
_FIELDS = re.compile(
    r"protocol=(?P<protocol>\d+) location=(?P<location>\S+)(?: \[[\w-]+\])?(?: reason: (?P<reason>\S+))?"
)
_REASON = re.compile(r'\{ (\d+|0x[0-9a-f]+), "(\w+)" \}')

LONGEST_WAY_NS = 50_000_000  # from sending (or reflecting) a packet to its drop in the host's kernel
LONGEST_WAY_TO_TAP_NS = 500_000_000  # the same for a full tap queue, on a machine that stands still
FULL_TAP = "tun_net_xmit"  # the function that drops a packet for which the tap's queue has no room
CLOCK_ERROR_NS = 20_000  # the trace's clock against CLOCK_REALTIME: a packet may seem to be sent after its drop
ETHERTYPES = {4: 0x0800, 6: 0x86DD}  # by IP version

#: Prefixes of kernel functions that drop packets: hop and direction, None for either.
FUNCTIONS: Mapping[str, tuple[HopName, Direction | None]] = {
    prefix: (hop, direction)
    for hop, direction, prefixes in (
        (HopName.TAP_QUEUE, Direction.FORWARD, (FULL_TAP, "tun_do_read", "tun_recvmsg", "tun_queue_purge")),
        (HopName.TAP_QUEUE, Direction.FORWARD, ("tap_handle_frame", "tap_do_read", "tap_recvmsg")),  # of a macvtap
        (HopName.QEMU, Direction.RETURN, ("tun_get_user", "tun_sendmsg", "tap_get_user", "tap_sendmsg")),
        (HopName.SWITCH, None, ("veth_xmit", "br_")),
        (
            HopName.STATION_STACK,
            Direction.RETURN,
            ("ip_", "ip6_", "ipv6_", "icmp", "udp", "__udp", "tcp_", "arp_", "ndisc_"),
        ),
        (HopName.CAPTURE, Direction.RETURN, ("packet_", "tpacket_")),
    )
    for prefix in prefixes
}

#: Prefixes of functions that every interface runs: queueing disciplines, filters, the core of sending and receiving.
SHARED_FUNCTIONS = (
    "__dev_queue_xmit", "__dev_xmit", "dev_hard_start_xmit", "__netif_receive_skb", "enqueue_to_backlog",
    "tcf_", "__tcf_", "tc_", "sch_", "qdisc_", "__qdisc_", "netem_", "prio_", "pfifo", "fq_", "codel", "htb_", "tbf_",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DropEvent:
    """One packet that the kernel dropped.

    :param time_ns: CLOCK_REALTIME, to the microsecond.
    :param protocol: Ethernet type.
    :param function: kernel function that dropped it, :param reason: enum skb_drop_reason without its prefix.
    """

    time_ns: int
    protocol: int
    function: str
    reason: str


@dataclass(frozen=True, slots=True)
class DropReport:
    """The tracepoint's events.

    :param unavailable: reason why nothing is known; empty when the tracepoint works.
    :param lost: events that the trace buffer itself lost.
    """

    unavailable: str
    events: tuple[DropEvent, ...] = ()
    lost: int = 0

    @property
    def complete(self) -> bool:
        """Every drop has its event."""
        return not self.unavailable and not self.lost


class DropTrace(Tracepoints):
    """Records packet drops of the whole kernel; a context manager. Call :meth:`report` before the end of its body.

    It uses a tracefs instance of its own and removes it at the end. It never raises: the report says what is missing.
    """

    def __init__(self, tracefs: Path = TRACEFS) -> None:
        super().__init__({EVENT: _filter}, tracefs)

    def report(self) -> DropReport:
        """Everything dropped so far."""
        trace = self.read()
        return DropReport(trace.unavailable, drop_events(trace.lines), trace.lost)


def _filter(layout: str) -> str:
    """Leave out :data:`IGNORED_REASONS`, whose numbers are in the event's ``format`` file."""
    numbers = {name: number for number, name in _REASON.findall(layout)}
    return " && ".join(f"reason != {numbers[name]}" for name in IGNORED_REASONS if name in numbers)


def drop_events(lines: Iterable[TraceLine]) -> tuple[DropEvent, ...]:
    """The kfree_skb events of a trace."""
    events = []
    for line in lines:
        if line.event == "kfree_skb" and (found := _FIELDS.search(line.text)):
            function = found["location"].split("+", 1)[0]
            events.append(DropEvent(line.time_ns, int(found["protocol"]), function, found["reason"] or "NOT_SPECIFIED"))
    return tuple(events)


@dataclass(frozen=True, slots=True)
class MissingPacket:
    """A missing packet, with the hop and the reason once they are known.

    :param version: IP version.
    :param sent_ns: when it was sent in this direction: T1, or T3 on the host's clock.
    :param hop: a :class:`HopName`, or ``kernel: FUNCTION``.
    :param counter: the hop's counter that counted it as dropped, if one did.
    :param drop_reason: the reason of the kernel's drop event, if there was one.
    :param reason: the same as a sentence.
    """

    direction: Direction
    version: int
    sequence: int
    sent_ns: int
    hop: str = HopName.UNEXPLAINED
    counter: str = ""
    drop_reason: str = ""
    reason: str = ""


def place_by_events(
    waiting: list[MissingPacket],
    events: list[DropEvent],
    accounts: Mapping[str, int] | None = None,
    clock_error_ns: int = CLOCK_ERROR_NS,
    *,
    unknown: bool = False,
) -> list[MissingPacket]:
    """Assign each drop event to the latest packet sent before it, at most :data:`LONGEST_WAY_NS` earlier.

    :param waiting: missing packets of one direction, in order of sending; those that are placed are removed.
    :param events: in order of time; those of the packets that are placed are removed.
    :param accounts: packets that did not leave each hop of this direction, in the order of the path.
    :param clock_error_ns: error of the packets' clock; at least :data:`CLOCK_ERROR_NS` is allowed.
    :param unknown: use only events of functions that are in no table. They may be about other packets (a fragment that
        timed out, a neighbour that never answered), so call this after the counters were used.
    :returns: the packets placed, with hop and reason.
    """
    remaining = dict(accounts or {})
    slack = max(CLOCK_ERROR_NS, clock_error_ns)
    placed, unused = [], []
    for event in events:
        unused.append(event)
        longest_ns = LONGEST_WAY_TO_TAP_NS if event.function.startswith(FULL_TAP) else LONGEST_WAY_NS
        index = bisect.bisect_right(waiting, event.time_ns + slack, key=lambda packet: packet.sent_ns) - 1
        if index < 0 or event.time_ns - waiting[index].sent_ns > longest_ns:
            continue
        packet = waiting[index]
        if event.protocol != ETHERTYPES[packet.version]:
            continue
        if unknown == event.function.startswith((*FUNCTIONS, *SHARED_FUNCTIONS)):
            continue
        hop = f"kernel: {event.function}" if unknown else _hop(event, packet.direction, remaining)
        if hop is None:
            continue
        if hop in remaining:
            remaining[hop] -= 1
        reason = f"{event.reason} in {event.function}"
        placed.append(replace(waiting.pop(index), hop=hop, drop_reason=event.reason, reason=reason))
        unused.pop()
    events[:] = unused
    return placed


def _hop(event: DropEvent, direction: Direction, remaining: Mapping[str, int]) -> str | None:
    """The hop of an event for a packet of this direction; None when it cannot concern such a packet."""
    for prefix, (hop, only) in FUNCTIONS.items():
        if event.function.startswith(prefix):
            return hop if only in (None, direction) else None
    return next((hop for hop, count in remaining.items() if count > 0), f"kernel: {event.function}")
