"""Operations of a guest on its first NIC: address, filters, queue pairs, offloads, receive-side scaling, driver."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.guest.replies import NicInfo
from cprlib.linux.tap import interface_offloads, read_tap_queues
from cprlib.linux.topology import GUEST, NUD_PERMANENT, STATION_INTERFACE
from cprlib.qemu.nic_state import CTRL_MAC_ADDR, CTRL_RX, CTRL_VLAN, GUEST_CSUM, Facts, differences, filter_facts
from cprlib.testing.nic_frames import WrongCount, frame, queues_of_flows, received_kinds
from cprlib.words import listed
from operated_guest import OperatedGuest
from operations import Operation

CHANGED, MULTICAST = "52:54:00:75:01:77", "01:00:5e:75:75:75"
VLAN = 5
FOREIGN = "52:54:00:75:ff:ff"
OFFLOAD = "rx-gro-hw"  # ethtool's name of the segments that a virtio NIC receives: VIRTIO_NET_F_GUEST_TSO4 and 6
RSS_KEY = "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"  # not the guest's own
FILTER_S = 15.0


def _filters(guest: OperatedGuest) -> Facts:
    return filter_facts(guest.machine.qmp)


def _wrong_filter(guest: OperatedGuest, name: str, word: str, *, present: bool = True) -> list[str]:
    """Wait until a list of query-rx-filter has, or no longer has, a word; returns the problem otherwise."""

    def right() -> bool:
        return (word in _filters(guest).get(name, "").split()) == present

    try:
        Deadline(FILTER_S, "the guest to change its receive filter", Awaited.GUEST).poll(right, 0.02)
    except DeadlineExceeded:
        value = _filters(guest).get(name, "absent")
        return [f"query-rx-filter has {name} {value or 'empty'}, {'without' if present else 'with'} {word}"]
    return []


def _wrong_frames(guest: OperatedGuest, name: str, content: bytes, *, accepted: bool) -> list[str]:
    """Whether a kind of frames reaches the guest, where that is wrong; vhost filters nothing."""
    kinds = {name: content, "its address": frame(GUEST.mac)}
    expected = frozenset(kinds if accepted or guest.vhost else ["its address"])
    came = received_kinds(guest.running_guest, kinds, tuple(expected))
    if isinstance(came, WrongCount):
        return [f"{came}, to {listed(kinds)}"]
    if came == expected:
        return []
    shown = ", ".join(sorted(came)) or "none"
    return [f"the guest receives frames to {shown}, expected {', '.join(sorted(expected))}"]


def change_address(guest: OperatedGuest) -> list[str]:
    """``ip link set eth0 address MAC``; the station sends to the new one; then the old one again."""
    agent, station = guest.agent, guest.topology.station
    index = station.index(STATION_INTERFACE)
    found = []
    for mac in (CHANGED, GUEST.mac):
        agent.set_interface(mac=mac)
        found += _wrong_filter(guest, "main-mac", mac)
        station.netlink.neigh("replace", dst=GUEST.ipv4, lladdr=mac, ifindex=index, state=NUD_PERMANENT)
        guest.wait_answers(0)
    return found


def change_vlans(guest: OperatedGuest) -> list[str]:
    """Add a VLAN device and delete it again."""
    agent, name, tagged = guest.agent, f"VLAN {VLAN}", frame(GUEST.mac, vlan=VLAN)
    agent.add_vlan(VLAN)
    found = _wrong_filter(guest, "vlan-table", str(VLAN)) + _wrong_frames(guest, name, tagged, accepted=True)
    agent.remove_vlan(VLAN)
    found += _wrong_filter(guest, "vlan-table", str(VLAN), present=False)
    return found + _wrong_frames(guest, name, tagged, accepted=False)


def change_multicast(guest: OperatedGuest) -> list[str]:
    """Receive a multicast address, and no longer."""
    agent, content = guest.agent, frame(MULTICAST)
    agent.add_filter(MULTICAST)
    found = _wrong_filter(guest, "multicast-table", MULTICAST)
    found += _wrong_frames(guest, MULTICAST, content, accepted=True)
    agent.remove_filter(MULTICAST)
    found += _wrong_filter(guest, "multicast-table", MULTICAST, present=False)
    return found + _wrong_frames(guest, MULTICAST, content, accepted=False)


def change_receive_mode(guest: OperatedGuest) -> list[str]:
    """``ip link set eth0 promisc on``, and off."""
    found = []
    for on in (True, False):
        guest.agent.set_interface(promiscuous=on)
        found += _wrong_filter(guest, "promiscuous", str(on).lower())
        found += _wrong_frames(guest, FOREIGN, frame(FOREIGN), accepted=on)
    return found


def change_queue_pairs(guest: OperatedGuest) -> list[str]:
    """``ethtool -L eth0 combined N``: one pair, all of them, and as many as before; packets on each pair in use."""
    before, found = guest.used, []
    for pairs in (1, guest.queues, before):
        guest.used = guest.agent.set_queue_pairs(pairs)
        taps = read_tap_queues(guest.machine.pid)
        attached = sum(not tap.detached for tap in taps if tap.interface == guest.running_guest.tap)
        if not pairs == guest.used == attached:
            found.append(f"of {pairs} queue pairs the guest uses {guest.used}, the kernel has {attached} attached")
        if problems := guest.traffic_problems():
            guest.used = before
            return [*found, *(f"with {pairs} queue pairs: {problem}" for problem in problems)]
    guest.used = before
    return found


def can_switch_offloads(nic: NicInfo) -> bool:
    """Whether the guest has receive offloads, and can switch them."""
    return nic.features.get(OFFLOAD) == "on" and nic.agreed_on(GUEST_CSUM)


def change_offloads(guest: OperatedGuest) -> list[str]:
    """``ethtool -K eth0 rx-gro-hw off``, and on: the tap gets other offloads, and those of before."""
    agent, tap, switch = guest.agent, guest.running_guest.tap, guest.topology.switch
    before = interface_offloads(switch, tap)
    agent.set_feature(OFFLOAD, on=False)
    without = interface_offloads(switch, tap)
    agent.set_feature(OFFLOAD, on=True)
    found = [] if without != before else [f"{OFFLOAD} off changes no offload of {tap}"]
    return found + [f"after off and on, {change}" for change in differences(before, interface_offloads(switch, tap))]


def change_rss(guest: OperatedGuest) -> list[str]:
    """``ethtool -X eth0``: another key, and all flows in the last queue; then the key and table of before."""
    agent, last = guest.agent, guest.used - 1
    before, mapped = agent.rss(), queues_of_flows(guest.running_guest)
    agent.set_rss(RSS_KEY, last)
    changed, one_queue = agent.rss(), queues_of_flows(guest.running_guest)
    agent.set_rss(before.key)
    found = []
    if changed.key != RSS_KEY or set(changed.table) != {last}:
        found.append(f"the guest has key {changed.key[:8]}... and queues {sorted(set(changed.table))} in its table")
    if isinstance(one_queue, WrongCount):
        found.append(f"with queue {last} in the whole table, {one_queue}")
    elif (used := [queue for queue, ports in one_queue.items() if ports]) != [last]:
        found.append(f"with queue {last} in the whole table, flows arrive in queues {used}")
    if (now := agent.rss()) != before:
        found.append(f"the guest has key {now.key[:8]}..., not {before.key[:8]}..., or another table than before")
    if isinstance(mapped, WrongCount):
        found.append(f"before the change, {mapped}")
    elif (again := queues_of_flows(guest.running_guest)) != mapped:
        found.append(f"with key and table as before, flows arrive by queue {again}, not {mapped}")
    return found


def set_interface_down_and_up(guest: OperatedGuest) -> list[str]:
    """``ip link set eth0 down``, and up, with the addresses that the kernel has removed."""
    guest.updater.wait_announced()
    guest.agent.set_interface(up=False)
    found = guest.answers_while("the interface was down")
    guest.wait_nic()
    return found


def rebind_driver(guest: OperatedGuest, before: NicInfo | None = None) -> list[str]:
    """Unbind virtio_net from the NIC and bind it again: a new negotiation of features, and new rings.

    :param before: the NIC that the driver has to find; as it is now when None.
    """
    before = before or guest.nics()[0]
    agent = guest.agent
    agent.bind_driver(agent.unbind_driver())
    guest.wait_nic()
    return nic_changes(before, guest.nics()[0])


def nic_changes(before: NicInfo, now: NicInfo) -> list[str]:
    """What a driver that was bound again finds otherwise than before."""
    found = []
    for name in ("virtio_features", "features", "channels", "mac", "settings"):
        was, is_now = getattr(before, name), getattr(now, name)
        if isinstance(was, Mapping):
            changed = sorted(key for key in {*was, *is_now} if was.get(key) != is_now.get(key))
            found += [f"{name}, {key}: {was.get(key)}, then {is_now.get(key)}" for key in changed]
        elif was != is_now:
            found.append(f"{name} were {was}, are {is_now}")
    return found


def _needing(name: str, *features: int) -> partial[Operation]:
    """Operations on a NIC with these features."""
    return partial(Operation, applies=lambda guest: guest.nics()[0].agreed_on(*features), no_feature=name)


_of_addresses = _needing("VIRTIO_NET_F_CTRL_MAC_ADDR", CTRL_MAC_ADDR)
_of_vlans = _needing("VIRTIO_NET_F_CTRL_VLAN with _CTRL_RX", CTRL_VLAN, CTRL_RX)
_of_receive_modes = _needing("VIRTIO_NET_F_CTRL_RX", CTRL_RX)
of_offloads = partial(
    Operation,
    applies=lambda guest: can_switch_offloads(guest.nics()[0]),
    no_feature="receive offloads that can be switched",
)

ADDRESS = _of_addresses("mac", "query-rx-filter has the address, and the guest answers at it", change_address)
VLANS = _of_vlans("vlans", "query-rx-filter has the VLAN, and its frames arrive, while it exists", change_vlans)
MULTICASTS = _of_receive_modes(
    "multicast", "query-rx-filter has the address while it is added; frames arrive", change_multicast
)
RECEIVE_MODE = _of_receive_modes(
    "promiscuous", "frames to foreign addresses arrive in this mode only", change_receive_mode
)
QUEUE_PAIRS = Operation(
    "queue-pairs",
    "each number of queue pairs is in use by the guest and attached in the kernel, and they carry packets",
    change_queue_pairs,
    lambda guest: guest.queues > 1,
)
OFFLOADS = of_offloads("offloads", "the tap's offloads change, and are as before in the end", change_offloads)
RSS = Operation(
    "rss",
    "key and table are as set; flows arrive in the queue that the table has",
    change_rss,
    lambda guest: guest.used > 1 and guest.rss,
)
INTERFACE = Operation("interface-down-up", "no answer while the interface is down", set_interface_down_and_up)
DRIVER = Operation("driver-rebind", "features, queue pairs and address are as before", rebind_driver)
