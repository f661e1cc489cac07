"""Frames made by hand, to see which of them come through to the guest, and into which of its queues."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping, Sequence

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded
from cprlib.guest.agent import AgentConnection
from cprlib.guest.replies import NetInfo, NicInfo
from cprlib.linux.topology import GUEST, STATION, STATION_INTERFACE
from cprlib.update.running_guest import RunningGuest

EXPERIMENTAL = 0x88B5  # IEEE 802 local experimental Ethertype 1: the guest counts it and drops it
VLAN_TAG, IPV4 = 0x8100, 0x0800
NOBODY = "10.75.0.99"  # on the guest's network, but nobody's address
ARRIVE_S, SILENCE_S = 5.0, 0.3


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def frame(target: str, *, vlan: int | None = None) -> bytes:
    """A frame that no protocol takes.

    :param target: link-layer address; :param vlan: 802.1Q id, None for a frame without a tag.
    """
    tag = b"" if vlan is None else struct.pack("!HH", VLAN_TAG, vlan)
    return _mac_bytes(target) + _mac_bytes(STATION.mac) + tag + struct.pack("!H", EXPERIMENTAL) + bytes(46)


def flow_frame(port: int) -> bytes:
    """A UDP packet to the guest's link-layer address but nobody's IP address: the guest drops it without an answer.

    :param port: source port, which makes it a flow of its own.
    """
    udp = struct.pack("!HHHH", port, 9, 8 + 18, 0) + bytes(18)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(udp),
        0,
        0,
        64,
        17,
        0,
        socket.inet_aton(STATION.ipv4),
        socket.inet_aton(NOBODY),
    )
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    return _mac_bytes(GUEST.mac) + _mac_bytes(STATION.mac) + struct.pack("!H", IPV4) + header + udp


def send_frames(guest: RunningGuest, frames: Sequence[bytes]) -> None:
    """Send frames from the station, one after the other."""
    with guest.topology.station.entered():
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    with opened:
        opened.bind((STATION_INTERFACE, 0))
        for item in frames:
            opened.send(item)


def received_per_queue(nic: NicInfo) -> dict[int, int]:
    """Packets that each queue of the guest's NIC received; empty where the guest's kernel does not tell."""
    return {int(name[2:]): count for name, count in nic.queue_packets.items() if name.startswith("rx")}


def _settled(agent: AgentConnection, before: int, wanted: int) -> NetInfo:
    """The guest's counters once it has received so many packets and no more come."""
    seen = agent.network()

    def enough() -> bool | None:
        nonlocal seen
        seen = agent.network()
        return True if seen.nic().counters["rx_packets"] - before >= wanted else None

    with contextlib.suppress(DeadlineExceeded):  # what is missing is seen in the counters
        Deadline(ARRIVE_S, f"{wanted} frames to arrive").poll(enough, 0.02)
    if seen.nic().counters["rx_packets"] - before == wanted:
        return seen
    while True:  # something else came, or too little: wait until nothing more does
        count = seen.nic().counters["rx_packets"]
        with contextlib.suppress(DeadlineExceeded):
            Deadline(SILENCE_S, "silence").poll(lambda: None, SILENCE_S / 2)
        seen = agent.network()
        if seen.nic().counters["rx_packets"] == count:
            return seen


def arriving(guest: RunningGuest, kinds: Mapping[str, bytes], welcome: Sequence[str]) -> frozenset[str] | None:
    """Which kinds of frames the guest's NIC receives.

    The first kind is sent once, the next twice, then four times: the sum tells which came. Those that shall not come
    are sent first; with one queue they have come, if they come, when the others are there.

    :param welcome: the kinds that shall come.
    :returns: None when a kind came in part, or something else came.
    """
    weights = {name: 1 << position for position, name in enumerate(kinds)}
    order = sorted(kinds, key=lambda name: name in welcome)
    before = guest.agent.network().nic().counters["rx_packets"]
    send_frames(guest, [kinds[name] for name in order for _ in range(weights[name])])
    after = _settled(guest.agent, before, sum(weights[name] for name in welcome))
    count = after.nic().counters["rx_packets"] - before
    if count >= 1 << len(kinds):
        return None
    return frozenset(name for name, weight in weights.items() if count & weight)


def queue_map(guest: RunningGuest, flows: int = 8, first_port: int = 30000) -> dict[int, tuple[int, ...]] | None:
    """Into which queue of the guest's NIC each of several flows is put by the kernel, by its hash of the flow.

    The guest must not answer them: the kernel would let a flow follow its answers (tun_flow_update()).

    :returns: source ports by queue; None when packets were missing.
    """
    weights = {first_port + position: 1 << position for position in range(flows)}
    before = guest.agent.network().nic()
    send_frames(guest, [flow_frame(port) for port, weight in weights.items() for _ in range(weight)])
    after = _settled(guest.agent, before.counters["rx_packets"], sum(weights.values())).nic()
    earlier = received_per_queue(before)
    counts = {queue: count - earlier.get(queue, 0) for queue, count in received_per_queue(after).items()}
    if sum(counts.values()) != sum(weights.values()):
        return None
    return {queue: tuple(port for port, weight in weights.items() if count & weight) for queue, count in counts.items()}
