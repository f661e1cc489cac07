"""Which frames the guest's NIC receives, and in which queues; and the number of queue pairs that the guest uses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from cprlib.deadline import Deadline, timeout_scale
from cprlib.errors import DeadlineExceeded
from cprlib.guest.agent import AgentConnection
from cprlib.guest.replies import NicInfo
from cprlib.linux.counters import read_counters
from cprlib.linux.topology import GUEST, STATION, STATION_INTERFACE
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_view import read_tap_view
from cprlib.traffic.control_run import capture_problems
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession
from cprlib.traffic.sockets import open_sending
from cprlib.update.running_guest import RunningGuest

EXPERIMENTAL = 0x88B5  # IEEE 802 local experimental Ethertype 1: the guest counts it and drops it
UNUSED_IPV4, UNUSED_IPV6 = "10.75.0.99", "fd75::99"  # on the guest's networks, but of no machine
DISCARD_PORT = 9
ARRIVE_S, SILENCE_S = 5.0, 0.3
AT_ONCE = 32  # frames: they fit into a tap queue, and into a receive ring
TRIES = 5  # while more frames arrive than were expected: they may be of others
FLOWS = 6  # 63 frames: they fit into one receive ring, also when the guest takes none before the last has arrived
FLOWS_PER_QUEUE = 12  # kernels select a flow's queue by hash: 48 flows miss one of 4 queues in 1 of 250,000 cases
EXCHANGE_RATE, EXCHANGE_S = 500.0, 0.5  # packets/s and length of an exchange


def frame(target: str, *, vlan: int | None = None) -> bytes:
    """A frame that belongs to no protocol.

    :param target: link-layer address; :param vlan: 802.1Q id, None for a frame without a tag.
    """
    head = Ether(src=STATION.mac, dst=target, type=EXPERIMENTAL)
    if vlan is not None:
        head = Ether(src=STATION.mac, dst=target) / Dot1Q(vlan=vlan, type=EXPERIMENTAL)
    return bytes(head / Raw(bytes(46)))


def flow_frame(port: int, *, ipv6: bool = False) -> bytes:
    """A UDP packet to the guest's link-layer address but to an unused IP address: the guest drops it without an answer.

    :param port: source port, different for each flow.
    """
    head = IPv6(src=STATION.ipv6, dst=UNUSED_IPV6) if ipv6 else IP(src=STATION.ipv4, dst=UNUSED_IPV4, id=0)
    datagram = UDP(sport=port, dport=DISCARD_PORT) / Raw(bytes(18))
    return bytes(Ether(src=STATION.mac, dst=GUEST.mac) / head / datagram)


def send_frames(guest: RunningGuest, frames: Sequence[bytes]) -> None:
    """Send frames to the guest; the next ones when its tap's queue has room for them (parameter ``queue_length``)."""

    def taken() -> int:
        counters = read_counters(guest.topology.switch, guest.tap)
        return counters.tx_packets + counters.tx_dropped

    def wait_taken(goal: int) -> None:
        with contextlib.suppress(DeadlineExceeded):  # the counters of the guest show what is missing
            Deadline(ARRIVE_S, "the tap's queue to have room").poll(lambda: taken() >= goal, 0.005)

    with guest.topology.station.entered():
        opened = open_sending(STATION_INTERFACE)
    before = taken()
    with opened:
        for number, content in enumerate(frames):
            if number and number % AT_ONCE == 0:
                wait_taken(before + number)
            opened.send(content)


def _dropped(guest: RunningGuest) -> int:
    """Packets to the guest that its full tap queue dropped."""
    return read_counters(guest.topology.switch, guest.tap).tx_dropped


def received_per_queue(nic: NicInfo) -> dict[int, int]:
    """Packets received by each queue of the guest's NIC; empty where the guest's kernel does not count them."""
    return {int(name[2:]): count for name, count in nic.queue_packets.items() if name.startswith("rx")}


def _wait_received(agent: AgentConnection, before: int, expected: int) -> NicInfo:
    """The guest's NIC after it has received ``expected`` packets, or after no more arrive."""

    def received_enough() -> NicInfo | None:
        nic = agent.network().nic()
        return nic if nic.counters["rx_packets"] - before >= expected else None

    with contextlib.suppress(DeadlineExceeded):  # the counters show what is missing
        nic = Deadline(ARRIVE_S, f"{expected} frames to arrive").poll(received_enough, 0.02)
        if nic.counters["rx_packets"] - before == expected > 0:  # none arrived yet: others may follow
            return nic
    nic = agent.network().nic()
    while True:  # too few packets, or others: wait until no more arrive
        count = nic.counters["rx_packets"]
        time.sleep(SILENCE_S * timeout_scale())  # no event announces silence
        nic = agent.network().nic()
        if nic.counters["rx_packets"] == count:
            return nic


@dataclass(frozen=True, slots=True)
class WrongCount:
    """The guest's NIC received fewer frames than were sent, or more in each of several tries.

    :param received: in the last try; :param sent: in each try.
    """

    received: int
    sent: int

    def __str__(self) -> str:
        if self.received < self.sent:
            return f"the guest received {self.received} of {self.sent} frames"
        return f"the guest received {self.received} of {self.sent} frames, too many in each of {TRIES} tries"


def received_kinds(
    guest: RunningGuest, kinds: Mapping[str, bytes], expected: Sequence[str]
) -> frozenset[str] | WrongCount:
    """The kinds of frames that the guest's NIC receives.

    The first kind is sent once, the second twice, the third four times: the sum identifies those that arrived. Kinds
    that must not arrive are sent first: with one queue they would arrive before the others.

    :param expected: the kinds that must arrive.
    :returns: the wrong count when more arrived than were sent.
    """
    weights = {name: 1 << position for position, name in enumerate(kinds)}
    order = sorted(kinds, key=lambda name: name in expected)
    wanted, count = sum(weights[name] for name in expected), 0
    for _ in range(TRIES):
        before = guest.agent.network().nic().counters["rx_packets"]
        send_frames(guest, [kinds[name] for name in order for _ in range(weights[name])])
        count = _wait_received(guest.agent, before, wanted).counters["rx_packets"] - before
        if count <= wanted:
            break
    sent = sum(weights.values())
    if count > sent:
        return WrongCount(count, sent)
    return frozenset(name for name, weight in weights.items() if count & weight)


def queues_of_flows(guest: RunningGuest, *, ipv6: bool = False) -> dict[int, tuple[int, ...]] | WrongCount:
    """The queue of the guest's NIC that the kernel selects for each of some flows, by the flow's hash.

    The guest must not answer them: a flow would move to the queue of its answers (tun_flow_update()).

    :param ipv6: flows over IPv6, whose hash takes more bytes of a key (virtio 1.3 section 5.1.6.4.3).
    :returns: source ports by queue; the wrong count when packets are missing, or more arrive than were sent.
    """
    weights = {30_000 + position: 1 << position for position in range(FLOWS)}
    sent, counts = sum(weights.values()), dict[int, int]()
    for _ in range(TRIES):
        before = guest.agent.network().nic()
        frames = {port: flow_frame(port, ipv6=ipv6) for port in weights}
        send_frames(guest, [frames[port] for port, weight in weights.items() for _ in range(weight)])
        after = _wait_received(guest.agent, before.counters["rx_packets"], sent)
        earlier = received_per_queue(before)
        counts = {queue: count - earlier.get(queue, 0) for queue, count in received_per_queue(after).items()}
        if sum(counts.values()) <= sent:
            break
    if (received := sum(counts.values())) != sent:
        return WrongCount(received, sent)
    return {queue: tuple(port for port, weight in weights.items() if count & weight) for queue, count in counts.items()}


def expect_same_queues_of_flows(
    case: MeasuredCase,
    before: dict[int, tuple[int, ...]] | WrongCount,
    name: str,
    meaning: str,
    *,
    ipv6: bool = False,
) -> None:
    """Check that each flow arrives in the same queue of the guest as before an update.

    :param before: what :func:`queues_of_flows` returned then.
    :param name: the check's; :param meaning: what a difference means.
    :param ipv6: as it was given then.
    """
    if isinstance(before, WrongCount):
        case.inconclusive(name, "the same queue of the guest for each flow", f"before the update, {before}")
    else:
        after = queues_of_flows(case.guest, ipv6=ipv6)
        case.expect_equal(name, after, before, f"{meaning}: flows by queue of the guest")


def use_queue_pairs(case: MeasuredCase, pairs: int, when: str) -> None:
    """``ethtool -L eth0 combined N`` in the guest; check that as many queues of the tap are attached in the kernel.

    :param when: for the check's name: ``after-update``.
    """
    used = case.guest.agent.set_queue_pairs(pairs)
    attached = read_tap_view(case.guest.topology, case.guest.machine).attached
    found = {"used by the guest": used} | ({} if attached is None else {"attached in the kernel": attached})
    meaning = f"{pairs} queue pairs were requested"
    case.expect_equal(f"{pairs}-pairs", found, dict.fromkeys(found, pairs), meaning, when=when)


def use_and_exchange(case: MeasuredCase, pairs: int, when: str) -> None:
    """``ethtool -L eth0 combined N`` in the guest; check that these queue pairs carry packets then.

    For a macvtap, of which the kernel does not report the attached queues.
    """
    used = case.guest.agent.set_queue_pairs(pairs)
    case.expect_equal("pairs", used, pairs, f"queue pairs in use, of {pairs} that were requested", when=when)
    exchange_packets(case, pairs, when)


def exchange_packets(case: MeasuredCase, pairs: int, when: str) -> None:
    """Send test packets on many flows; check that none is lost and only the queue pairs in use carry packets.

    :param pairs: number of queue pairs in use.
    """
    count = FLOWS_PER_QUEUE * pairs
    flows = flows_between(count=count, first_port=case.ports.take(count))
    before, dropped = received_per_queue(case.guest.agent.network().nic()), _dropped(case.guest)
    settings = StreamSettings(rate=EXCHANGE_RATE, duration_s=EXCHANGE_S)
    with TrafficSession(case.guest.topology.station, flows, settings, keep_frames=0) as session:
        session.wait_sent(Deadline(EXCHANGE_S + 20, "test packets to be sent"))
        session.finish()
    result = session.result()
    after = received_per_queue(case.guest.agent.network().nic())
    lost = f"packets lost of {result.sent} with {pairs} queue pairs {when.replace('-', ' ')}"
    # a queue with room for all of them is full only when QEMU does not read it
    short = case.parameters.queue_length < result.sent
    full = ["the queue of the tap was full"] if short and _dropped(case.guest) > dropped else []
    expect_none_lost(case, "traffic", result, lost, when=when, problems=full)
    name, expected = "queues-carry", f"packets on the first {pairs} queue pairs, none on others"
    if not after:
        case.inconclusive(f"{name}-{when}", expected, "the guest has no counters per queue")
        return
    carried = {queue: count - before.get(queue, 0) for queue, count in after.items()}
    idle = [queue for queue in range(pairs) if not carried.get(queue)]
    unexpected = [queue for queue, count in carried.items() if queue >= pairs and count]
    case.expect(
        name,
        not idle and not unexpected,
        expected,
        f"packets by queue: {carried}",
        f"queue pairs {idle} carry no packets, {unexpected} carry packets but are not in use",
        when=when,
    )


def expect_none_lost(
    case: MeasuredCase,
    name: str,
    result: TrafficResult,
    meaning: str,
    *,
    when: str = "",
    problems: Sequence[str] = (),
) -> None:
    """Check that no test packet was lost; inconclusive when the capture may have missed some.

    :param meaning: what the number of lost packets is.
    :param when: ends the check's name, as of :meth:`CaseChecks.expect`.
    :param problems: others that make a loss inconclusive.
    """
    if result.lost and (problems := (*capture_problems(result), *problems)):
        case.inconclusive(f"{name}-{when}" if when else name, "no packet lost", "; ".join(problems))
    else:
        case.expect_equal(name, result.lost, 0, meaning, when=when)
