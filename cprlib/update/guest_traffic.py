"""Traffic through a running guest: the counters along its path, and flows of which every queue carries one.

Counters are named as in :data:`cprlib.traffic.hops.HOPS`. A guest hashes its answers over its queues, and the tap sends
a flow to the queue that its answers come from (tun_flow_update(), drivers/net/tun.c): only a trial shows which one.
With receive-side scaling in QEMU, and from a macvtap, another hash selects the queue by which packets come.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.guest.agent import AgentConnection
from cprlib.guest.replies import NetInfo, NicInfo, ReflectorCounters
from cprlib.linux.counters import LinkCounters, QdiscSide, read_counters, read_queue_drops
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import PORT, STATION_INTERFACE
from cprlib.qemu.nic_state import RSS
from cprlib.traffic.flow import Flow
from cprlib.traffic.frames import FrameClass
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, warm_up
from cprlib.traffic.result import TrafficResult
from cprlib.update.running_guest import RunningGuest

Counters = dict[str, int | None]

TCP_END_S = 20.0  # for a connection to close
# With four queues and another hash for packets than for answers, one of them has both of no flow in 1 of 120 cases.
TRIED_PER_QUEUE = 24
SPREADING_KEY = "5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa6d"

CAPTURE = ("frames", "captured", "answers", "bad_checksums", "drops", "others", "announcements")
GUEST_NIC = ("rx_packets", "rx_dropped", "rx_errors", "tx_packets", "tx_dropped", "tx_errors")
GUEST_UDP = {  # name of the counter: its name in /proc/net/snmp, and in snmp6 after "Udp6"
    "guest.udp_in_errors": "InErrors",
    "guest.udp_rcvbuf_errors": "RcvbufErrors",
}


def _link(place: str, counters: LinkCounters) -> Counters:
    return {f"{place}.{name}": count for name, count in asdict(counters).items()}


def _queues(place: str, namespace: NetworkNamespace, interface: str) -> Counters:
    drops = read_queue_drops(namespace, interface)
    return {
        f"{place}.queue_out_dropped": drops[QdiscSide.EGRESS],
        f"{place}.queue_in_dropped": drops[QdiscSide.INGRESS],
    }


def _taps(guest: RunningGuest) -> Counters:
    """The current tap, plus those that link switches have retired."""
    total = _link("tap", read_counters(guest.topology.switch, guest.tap))
    for update in guest.updates:
        if update.source_retired is not None:
            for name, count in _link("tap", update.source_retired).items():
                total[name] = (total[name] or 0) + (count or 0)
    return total


def read_hop_counters(guest: RunningGuest) -> Counters:
    """Read all counters of the kernel and of the guest.

    A counter that cannot be read is None, never 0. UDP's InErrors are given without RcvbufErrors, which they include
    (net/ipv4/udp.c). ``guest.udp_rcvbuf_errors`` counts for all sockets, so no hop has it.

    :raises InstrumentError: the guest's agent sent an invalid reply.
    """
    topology = guest.topology
    counters: Counters = _taps(guest)
    counters |= _link("station", read_counters(topology.station, STATION_INTERFACE))
    port = read_counters(topology.switch, PORT)
    counters |= _link("port", port)
    counters |= _queues("station", topology.station, STATION_INTERFACE)
    counters |= (queues := _queues("port", topology.switch, PORT))
    counters |= _queues("tap", topology.switch, guest.tap)
    counters["port.rx_passed"] = port.rx_packets - (queues["port.queue_in_dropped"] or 0)
    seen = guest.agent.network()
    nic = seen.nic()
    counters |= {f"guest.{name}": nic.counters.get(name) for name in GUEST_NIC}
    for ours, theirs in GUEST_UDP.items():
        counters[ours] = udp_count(seen, theirs) if seen.stack else None
    errors, overflow = counters["guest.udp_in_errors"], counters["guest.udp_rcvbuf_errors"]
    if errors is not None and overflow is not None:
        counters["guest.udp_in_errors"] = errors - overflow
    return counters | _reflector(guest.agent.reflector(), seen)


def udp_count(seen: NetInfo, name: str) -> int:
    """A counter of the guest's UDP over both IP versions: a name of /proc/net/snmp, as ``InErrors``."""
    return seen.stack.get(f"Udp.{name}", 0) + seen.stack.get(f"Udp6{name}", 0)


def full_socket_drops(counted: ReflectorCounters, seen: NetInfo) -> int | None:
    """Packets that the reflector's socket dropped because it was full; None when unknown.

    Its counter has wrong checksums of packets with 69 bytes and more, too (udp_recvmsg(), net/ipv4/udp.c). Those of
    shorter ones and of other sockets, which it has not, make the difference smaller, perhaps less than 0.

    :param seen: the guest's counters at the same time.
    """
    return counted.socket_drops - udp_count(seen, "InCsumErrors") if counted.socket_drops >= 0 else None


def _reflector(counted: ReflectorCounters, seen: NetInfo) -> Counters:
    return {
        "reflector.received": counted.received,
        "reflector.logged": counted.log_records + counted.log_overflow,
        "reflector.ignored": counted.short + counted.truncated + counted.corrupt + counted.too_many_sessions,
        "reflector.sent": counted.reflected,
        "reflector.send_errors": counted.send_failed,
        "reflector.log_overflow": counted.log_overflow,
        "reflector.overflow": full_socket_drops(counted, seen),
    }


def instrument_counters(result: TrafficResult | None) -> Counters:
    """The counters of sender and capture: zeros before a run (None), its figures after it."""
    if result is None:
        return dict.fromkeys(("sender.sent", *(f"capture.{name}" for name in CAPTURE)), 0)
    report = result.instrument.capture
    answers = sum(flow.answers for flow in result.flows)
    return {
        "sender.sent": result.sent,
        "capture.frames": report.kernel_packets,
        "capture.captured": answers + report.bad_checksums,
        "capture.answers": answers,
        "capture.bad_checksums": report.bad_checksums,
        "capture.drops": report.kernel_drops,
        "capture.others": sum(report.others.values()) + result.damaged,
        "capture.announcements": report.others.get(FrameClass.RARP, 0),
    }


def spread_flows(agent: AgentConnection) -> None:
    """Give receive-side scaling, where the guest has it, a key that spreads flows of consecutive ports over its queues.

    The guest's own key is random: 1 of 10 keys sends 32 such flows to two of four queues or to one.
    """
    if agent.network().nic().agreed_on(RSS):
        agent.set_rss(SPREADING_KEY)


def flows_on_every_queue(guest: RunningGuest, candidates: Iterable[Flow], wanted: int) -> tuple[Flow, ...]:
    """Try flows until there is one for each queue pair in use, and warm those up.

    Its packets and its answers have the same queue pair. With receive-side scaling a full ring may otherwise keep QEMU
    from reading another queue of the tap for ever (docs/findings.md).

    :param candidates: flows to try, in this order.
    :param wanted: number of flows to choose, at least one. A queue pair without such a flow gets one whose answers have
        it. Where the guest's kernel has no counters by queue, or a queue gets no flow, the first candidates complete
        the number.
    :returns: the chosen flows, fewer than ``wanted`` when there are fewer candidates, in the order of the trials.
    :raises DeadlineExceeded: the guest does not answer.
    """
    station = guest.topology.station
    tried: list[Flow] = []
    answered: dict[str, Flow] = {}  # by queue of the answers
    on_pair: dict[str, Flow] = {}
    before = guest.agent.network().nic()
    queues = min(wanted, before.channels)
    for flow in candidates:
        warm_up(station, (flow,), _deadline())
        tried.append(flow)
        if queues <= 1 or not before.queue_packets:
            if len(tried) >= wanted:
                return tuple(tried)
            continue
        after = guest.agent.network().nic()
        queue = _busiest(before, after, "tx")
        answered.setdefault(queue, flow)
        if _busiest(before, after, "rx") == queue:
            on_pair.setdefault(queue, flow)
        before = after
        if len(on_pair) >= queues and len(tried) >= wanted:
            break
        if len(tried) >= wanted * TRIED_PER_QUEUE:
            break
    chosen = list((answered | on_pair).values())
    chosen += [flow for flow in tried if flow not in chosen][: wanted - len(chosen)]
    warm_up(station, chosen, _deadline())  # again, as the tap forgets a flow after 3 s without packets
    return tuple(sorted(chosen, key=lambda flow: flow.source_port))


def tcp_end_s(guest: RunningGuest) -> float:
    """Seconds in which a TCP connection that was open during the guest's updates has to close.

    The time-out of TCP doubles (RFC 6298 section 5.5): after a pause its next try comes up to as many seconds later as
    the pause has lasted. That try may fail too.
    """
    return TCP_END_S + 2 * max((update.pause_ns or 0 for update in guest.updates), default=0) / 1e9


def _deadline() -> Deadline:
    return Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST)


def _busiest(before: NicInfo, after: NicInfo, way: str) -> str:
    """The queue that carried most packets between two readings: that of the tried flow.

    :param way: ``rx`` or ``tx``.
    """
    moved = {
        name.removeprefix(way): count - before.queue_packets.get(name, 0)
        for name, count in after.queue_packets.items()
        if name.startswith(way)
    }
    return max(moved, key=lambda queue: moved[queue])
