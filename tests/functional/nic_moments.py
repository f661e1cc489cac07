"""Moments at which a NIC is not in normal use: each brings it there, updates the guest, and ends the state.

They are operations (operations.py): one that fails is repeated on a guest that is not updated in between.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.linux.topology import guest_end
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev
from cprlib.qemu.nic_state import CTRL_RX, RING_RESET, VERSION_1, differences
from cprlib.testing.nic_view import read_tap_view, set_link
from host_operations import EVENT_S, set_tap_state, while_down
from nic_operations import OFFLOAD, nic_changes, of_offloads, rebind_driver
from operated_guest import OperatedGuest
from operations import Operation

FILTER_EVENT = "NIC_RX_FILTER_CHANGED"
OFFLOADS = ("tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation")  # of a tap, if its reader has them
SMALL_RING = 64  # packets


def further_netdev(machine: Machine) -> TapNetdev:
    """A second netdev, with a tap that QEMU makes."""
    return replace(machine.settings.netdevs[0], identifier="further", interface="further")


def interface_down(guest: OperatedGuest) -> list[str]:
    """``ip link set eth0 down`` in the guest; after the update up, with the addresses that the kernel has removed."""
    guest.updater.wait_announced()
    guest.agent.set_interface(up=False)
    guest.updater.live_update("interface-down")
    found = guest.answers_while("the interface was down")
    guest.wait_nic()  # its filters change: QEMU sends an event of the first change after its start or query-rx-filter
    if not guest.nics()[0].agreed_on(CTRL_RX):
        return found  # nic.ctrl_rx=off: it has none
    changed = Deadline(EVENT_S, "the guest to change its receive filter", Awaited.GUEST)  # from a work item of Linux
    try:
        guest.machine.qmp.wait_event(FILTER_EVENT, deadline=changed)
    except DeadlineExceeded:
        found.append(f"QEMU sent no event {FILTER_EVENT}")
    return found


def driver_unbound(guest: OperatedGuest) -> list[str]:
    """The NIC has no driver in the guest: no features are negotiated, and vhost does not run."""
    agent, before = guest.agent, guest.nics()[0]
    bound = agent.unbind_driver()
    guest.updater.live_update("driver-unbound")
    found = guest.answers_while("the NIC had no driver")
    agent.bind_driver(bound)
    guest.wait_nic()
    return found + nic_changes(before, guest.nics()[0])


def ring_broken(guest: OperatedGuest) -> list[str]:
    """The driver has broken a ring: the NIC asks for a reset, and works when it gets one, not when the ring is right.

    vhost has no such state.
    """
    agent, before = guest.agent, guest.nics()[0]
    bound = agent.break_ring()
    found = _broken_ring_problems(guest, "before")
    guest.updater.live_update("ring-broken")
    found += _broken_ring_problems(guest, "after")
    agent.end_broken_ring(bound)
    guest.wait_nic()
    return found + nic_changes(before, guest.nics()[0])


def _broken_ring_problems(guest: OperatedGuest, when: str) -> list[str]:
    """What the NIC does with a kick of the broken ring, where it must do nothing."""
    ring = guest.agent.kick_broken_ring()
    if ring.needs_reset and not ring.used:
        return []
    asks = "" if ring.needs_reset else "does not ask for a reset, and "
    return [f"{when} the update the NIC {asks}took {ring.used} packets from a ring that it refused"]


def link_down(guest: OperatedGuest) -> list[str]:
    """QMP ``set_link`` down: QEMU has stopped vhost; it starts in the target when the link is up again."""
    return while_down(guest, "link", set_link, lambda: guest.updater.live_update("link-down"))


def netdev_link_down(guest: OperatedGuest) -> list[str]:
    """QMP ``set_link`` down by the name of the netdev, whose link QEMU does not migrate.

    The guest uses one queue pair in the update, and all afterwards, while the link is still down.
    """
    set_state = functools.partial(set_link, name=guest.machine.settings.netdevs[0].identifier)

    def update() -> None:
        if guest.queues > 1:
            guest.agent.set_queue_pairs(1)
        guest.updater.live_update("netdev-link-down")
        if guest.queues > 1:
            guest.agent.set_queue_pairs(guest.used)

    found = while_down(guest, "netdev-link", set_state, update)
    guest.configure_queues()
    return found


def tap_down(guest: OperatedGuest) -> list[str]:
    """``ip link set tap0 down`` on the host while vhost or QEMU has it open."""
    return while_down(guest, "tap", set_tap_state, lambda: guest.updater.live_update("tap-down"))


def can_resize_rings(guest: OperatedGuest) -> bool:
    """Whether the driver can reset a ring to give it another size."""
    return guest.nics()[0].agreed_on(RING_RESET)


def small_rings(guest: OperatedGuest) -> list[str]:
    """``ethtool -G eth0 rx N tx N``: an update keeps the sizes; a driver that is bound again finds those of before."""
    before = guest.nics()[0]
    guest.agent.set_ring_sizes(SMALL_RING, SMALL_RING)
    small = guest.nics()[0]
    guest.updater.live_update("small-rings")
    found = nic_changes(small, guest.nics()[0])
    if (sizes := {small.settings["rx_ring"], small.settings["tx_ring"]}) != {SMALL_RING}:
        found.append(f"the guest has rings of {sizes} packets, not {SMALL_RING}")
    guest.wait_answers()
    return found + rebind_driver(guest, before)


def offloads_off(guest: OperatedGuest) -> list[str]:
    """``ethtool -K eth0 rx-gro-hw off``: an update keeps it; a driver that is bound again has what it had before."""
    before, offloads = guest.nics()[0], read_tap_view(guest.topology, guest.machine).offloads
    guest.agent.set_feature(OFFLOAD, False)
    off = guest.nics()[0]
    guest.updater.live_update("offloads-off")
    found = nic_changes(off, guest.nics()[0]) + rebind_driver(guest, before)
    return found + list(differences(offloads, read_tap_view(guest.topology, guest.machine).offloads))


def unplug_pending(guest: OperatedGuest) -> list[str]:
    """``device_del`` of a paused guest, which has not released its NIC when it is updated; it does in the target.

    Then the netdev is removed, and both are added again.
    """
    machine = guest.machine
    before, netdev, nic = machine.settings, machine.settings.netdevs[0], machine.settings.nics[0]
    machine.qmp.execute("stop")
    machine.qmp.execute("device_del", {"id": nic.identifier})
    guest.updater.live_update("unplug-pending")
    machine = guest.machine
    seen = len(machine.qmp.events)
    machine.qmp.execute("cont")
    machine.wait_removed(nic.identifier, after=seen)
    machine.remove_netdev(netdev.identifier)
    guest.wait_others()
    machine.plug(netdev, nic)
    machine.settings = replace(machine.settings, netdevs=before.netdevs, nics=before.nics)  # a target has them in order
    guest.wait_nic()
    return []


def plug_pending(guest: OperatedGuest) -> list[str]:
    """``device_add`` of a second NIC to a paused guest, which sees it when it runs in the target.

    Then the NIC is unplugged.
    """
    machine = guest.machine
    netdev = further_netdev(machine)
    nic = replace(machine.settings.nics[0], identifier="further-nic", netdev=netdev.identifier, mac=guest_end(1).mac)
    machine.qmp.execute("stop")
    machine.plug(netdev, nic)
    guest.updater.live_update("plug-pending")
    machine = guest.machine
    machine.qmp.execute("cont")
    seen = Deadline(EVENT_S, "the guest to see its second NIC", Awaited.GUEST)
    seen.poll(lambda: any(item.mac == nic.mac for item in guest.agent.network().nics), 0.05)
    machine.remove_nic(nic.identifier)
    machine.remove_netdev(netdev.identifier)
    return []


def unplugged(guest: OperatedGuest) -> list[str]:
    """The NIC is unplugged and its netdev stays; in the target a NIC is plugged that uses it."""
    machine = guest.machine
    settings = machine.settings
    machine.remove_nic(settings.nics[0].identifier)
    guest.updater.live_update("unplugged")
    machine = guest.machine
    machine.plug_nic(settings.nics[0])
    machine.settings = replace(machine.settings, nics=settings.nics)  # a target has them in order
    guest.wait_nic()
    return []


INTERFACE_DOWN = Operation("interface-down", "no answer until the interface is up again", interface_down)
DRIVER_UNBOUND = Operation("driver-unbound", "a driver that is bound finds the same NIC", driver_unbound)
RING_BROKEN = Operation(
    "ring-broken",
    "the NIC waits for a reset, and works after it",
    ring_broken,
    lambda guest: not guest.vhost and guest.nics()[0].agreed_on(VERSION_1),  # the agent knows modern devices
)
LINK_DOWN = Operation("link-down", "the guest sees the link down, and up again; no packet in between", link_down)
NETDEV_LINK_DOWN = replace(LINK_DOWN, name="netdev-link-down", run=netdev_link_down)
TAP_DOWN = Operation("tap-down", "no packet until the tap is up again", tap_down)
SMALL_RINGS = Operation(
    "small-rings",
    "the rings keep their sizes, until the driver is bound",
    small_rings,
    can_resize_rings,
    "the guest's NIC is without VIRTIO_F_RING_RESET",
)
OFFLOADS_OFF = of_offloads("offloads-off", "the offloads stay off, until the driver is bound", offloads_off)
UNPLUG = Operation("unplug-pending", "the guest releases the NIC in the target, and finds it again", unplug_pending)
PLUG_PENDING = Operation("plug-pending", "the guest sees a second NIC in the target", plug_pending)
UNPLUGGED = Operation("unplugged", "a NIC that is plugged in the target uses the netdev", unplugged)
