"""Operations of a guest on its first NIC: address, filters, queue pairs, offloads, receive-side scaling, driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cprlib.linux.tap import interface_offloads, read_tap_queues
from cprlib.linux.topology import GUEST, NUD_PERMANENT, STATION_INTERFACE
from cprlib.qemu.nic_state import Facts, differences, filter_facts
from cprlib.testing.nic_frames import frame, queues_of_flows, received_kinds
from operations import OperatedGuest, Operation

CHANGED, MULTICAST = "52:54:00:75:01:77", "01:00:5e:75:75:75"
VLAN, FOREIGN_VLAN = 5, 6
FOREIGN = "52:54:00:75:ff:ff"
OFFLOAD = "rx-gro-hw"  # ethtool's name of the segments that a virtio NIC receives: VIRTIO_NET_F_GUEST_TSO4 and 6
RSS_KEY = "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"  # not the guest's own
TRIES = 3  # for frames that are counted: others may arrive meanwhile


def _filters(subject: OperatedGuest) -> Facts:
    return filter_facts(subject.guest.machine.qmp)


def _wrong_filter(subject: OperatedGuest, name: str, word: str, *, present: bool = True) -> list[str]:
    """Whether a fact of query-rx-filter contains a word, as it should."""
    value = _filters(subject).get(name, "absent")
    return [] if (word in value.split()) == present else [f"query-rx-filter has {name} {value or 'empty'}"]


def _wrong_frames(subject: OperatedGuest, kinds: Mapping[str, bytes], accepted: Sequence[str]) -> list[str]:
    """Which of some kinds of frames reach the guest, as far as that is wrong; vhost filters nothing."""
    expected = tuple(kinds) if subject.vhost else accepted
    came: frozenset[str] | None = None
    for _ in range(TRIES):
        came = received_kinds(subject.guest, kinds, expected)
        if came == frozenset(expected):
            return []
    shown = "more than were sent" if came is None else ", ".join(sorted(came)) or "none"
    return [f"the guest receives frames to {shown}, not to {', '.join(expected) or 'none'}"]


def change_address(subject: OperatedGuest) -> list[str]:
    """``ip link set eth0 address MAC``; the station sends to the new one; then the old one again."""
    agent, station = subject.guest.agent, subject.guest.topology.station
    index = station.index(STATION_INTERFACE)
    found = []
    for mac in (CHANGED, GUEST.mac):
        agent.set_interface(mac=mac)
        found += _wrong_filter(subject, "main-mac", mac)
        station.netlink.neigh("replace", dst=GUEST.ipv4, lladdr=mac, ifindex=index, state=NUD_PERMANENT)
        subject.wait_answers(0)
    return found


def change_vlans(subject: OperatedGuest) -> list[str]:
    """Add a VLAN device and delete it again; frames of that VLAN reach the guest, and of others only with vhost."""
    agent = subject.guest.agent
    kinds = {f"VLAN {number}": frame(GUEST.mac, vlan=number) for number in (VLAN, FOREIGN_VLAN)}
    agent.add_vlan(VLAN)
    found = _wrong_filter(subject, "vlan-table", str(VLAN)) + _wrong_frames(subject, kinds, [f"VLAN {VLAN}"])
    agent.remove_vlan(VLAN)
    return found + _wrong_filter(subject, "vlan-table", str(VLAN), present=False) + _wrong_frames(subject, kinds, [])


def change_multicast(subject: OperatedGuest) -> list[str]:
    """Receive a multicast address, and no longer."""
    agent, kinds = subject.guest.agent, {MULTICAST: frame(MULTICAST)}
    agent.add_filter(MULTICAST)
    found = _wrong_filter(subject, "multicast-table", MULTICAST) + _wrong_frames(subject, kinds, [MULTICAST])
    agent.remove_filter(MULTICAST)
    found += _wrong_filter(subject, "multicast-table", MULTICAST, present=False)
    return found + _wrong_frames(subject, kinds, [])


def change_receive_mode(subject: OperatedGuest) -> list[str]:
    """``ip link set eth0 promisc on``, and off."""
    found = []
    for on in (True, False):
        subject.guest.agent.set_interface(promiscuous=on)
        found += _wrong_filter(subject, "promiscuous", str(on).lower())
        found += _wrong_frames(subject, {FOREIGN: frame(FOREIGN)}, [FOREIGN] if on else [])
    return found


def change_queue_pairs(subject: OperatedGuest) -> list[str]:
    """``ethtool -L eth0 combined N``: one pair, all of them, and as many as before; packets on each pair in use."""
    before, found = subject.used, []
    for pairs in (1, subject.queues, before):
        subject.used = subject.guest.agent.set_queue_pairs(pairs)
        taps = read_tap_queues(subject.guest.machine.pid)
        attached = sum(not tap.detached for tap in taps if tap.interface == subject.guest.tap)
        if not pairs == subject.used == attached:
            found.append(f"of {pairs} queue pairs the guest uses {subject.used}, the kernel has {attached} attached")
        if problems := subject.problems():
            subject.used = before
            return [*found, *(f"with {pairs} queue pairs: {problem}" for problem in problems)]
    subject.used = before
    return found


def change_offloads(subject: OperatedGuest) -> list[str]:
    """``ethtool -K eth0 rx-gro-hw off``, and on: the tap gets other offloads, and those of before."""
    agent, tap, switch = subject.guest.agent, subject.guest.tap, subject.guest.topology.switch
    before = interface_offloads(switch, tap)
    agent.set_feature(OFFLOAD, on=False)
    without = interface_offloads(switch, tap)
    agent.set_feature(OFFLOAD, on=True)
    found = [] if without != before else [f"{OFFLOAD} off changes no offload of {tap}"]
    return found + [f"after off and on, {change}" for change in differences(before, interface_offloads(switch, tap))]


def change_rss(subject: OperatedGuest) -> list[str]:
    """``ethtool -X eth0``: another key, and all flows in the last queue; then the key and table of before."""
    agent, last = subject.guest.agent, subject.used - 1
    before = agent.rss()
    found = []
    for key, queue in ((RSS_KEY, last), (before.key, None)):
        agent.set_rss(key, queue)
        now, carried = agent.rss(), _carrying_queues(subject)
        if now.key != key or (queue is not None and set(now.table) != {queue}) or (queue is None and now != before):
            found.append(f"the guest has key {now.key[:8]}... and table {sorted(set(now.table))}")
        if carried is None or (carried != {queue} if queue is not None else len(carried) < 2):
            found.append(
                f"8 flows in queues {sorted(carried or ())}; all entries are {'equal' if queue else 'default'}"
            )
    return found


def _carrying_queues(subject: OperatedGuest) -> set[int] | None:
    """The queues in which 8 flows arrive; None when packets are missing."""
    for _ in range(TRIES):
        found = queues_of_flows(subject.guest)
        if found is not None:
            return {queue for queue, ports in found.items() if ports}
    return None


def set_interface_down_and_up(subject: OperatedGuest) -> list[str]:
    """``ip link set eth0 down``, and up, with the addresses that the kernel has removed."""
    subject.guest.agent.set_interface(up=False)
    found = subject.answers_while("the interface was down")
    subject.wait_nic()
    return found


def rebind_driver(subject: OperatedGuest) -> list[str]:
    """Unbind virtio_net from the NIC and bind it again: a new negotiation of features, and new rings."""
    before = subject.nics()[0]
    subject.guest.agent.rebind_driver()
    subject.wait_nic()
    now = subject.nics()[0]
    return [
        f"{name} were {getattr(before, name)}, are {getattr(now, name)}"
        for name in ("virtio_features", "features", "channels", "mac")
        if getattr(before, name) != getattr(now, name)
    ]


ADDRESS = Operation("mac", "query-rx-filter has the address, and the guest answers at it", change_address)
VLANS = Operation("vlans", "query-rx-filter has the VLAN while it exists; its frames arrive", change_vlans)
MULTICASTS = Operation(
    "multicast", "query-rx-filter has the address while it is added; frames arrive", change_multicast
)
RECEIVE_MODE = Operation("promiscuous", "frames to foreign addresses arrive in this mode only", change_receive_mode)
QUEUE_PAIRS = Operation(
    "queue-pairs",
    "each number of queue pairs is in use by the guest and attached in the kernel, and they carry packets",
    change_queue_pairs,
    lambda subject: subject.queues > 1,
)
OFFLOADS = Operation("offloads", "the tap's offloads change, and are as before in the end", change_offloads)
RSS = Operation(
    "rss",
    "key and table are as set; flows arrive in the queue that the table has",
    change_rss,
    lambda subject: subject.used > 1 and any("rss=on" in word for word in subject.guest.machine.settings.extra),
)
INTERFACE = Operation("interface-down-up", "no answer while the interface is down", set_interface_down_and_up)
DRIVER = Operation("driver-rebind", "features, queue pairs and address are as before", rebind_driver)
