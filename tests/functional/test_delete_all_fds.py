"""A removed netdev leaves no saved descriptors: an update sends those of the present netdevs."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded
from cprlib.evidence.records import Role
from cprlib.linux.counters import read_counters
from cprlib.linux.descriptors import DEVICE_KINDS, read_table
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev, VirtioNet
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import frame, send_frames
from cprlib.update.faults import make_rom

MOST_FILLERS = 64
BROADCAST, BROADCASTS = "ff:ff:ff:ff:ff:ff", 3
GOES = "net"  # a prefix of another id, net0: QEMU has to compare whole names


class DeleteAllFds(LiveUpdateTest):
    """Mechanism ``cpr``; NICs are added and removed while the guest runs."""

    def test_removed_netdevs_are_not_sent(self) -> None:
        """After a netdev with ``cpr=on`` is removed, or replaced under its id, updates send the present files only.

        Before the first update one NIC is removed, and its descriptors' numbers are taken by another file; another is
        removed and added again under its id with another tap. Before the second update, in what was the target, the
        same id gets another tap again, and a netdev comes and goes, whose numbers stay free. Before the third, the
        netdev is replaced under its NIC, which goes afterwards: the late clean-up of the old one must not take the new
        one's. Each update must send exactly the files that the netdevs have now. Patch 4 (cpr: delete all fds).

        :avocado: tags=patch:delete-all-fds,patch:4,mechanism:cpr,vhost:on,queues:2
        """
        first = TapNetdev(queues=2, vhost=True)
        again = TapNetdev("again", "tap1", vhost=True)
        goes = TapNetdev(GOES, "tap2", queues=2, vhost=True)
        with self.given_guest(GuestSpec(netdevs=(first, again, goes), plugged=True, role=Role.CHECKS)) as case:
            for number in (3, 4, 5):
                case.guest.topology.add_tap(f"tap{number}", queues=1)
            nics = {nic.netdev: nic for nic in case.guest.machine.settings.nics}
            with case.qemu_step():
                self._before_first(case, nics)
            self._update(case, "first", first)
            self._before_second(case, nics)
            self._update(case, "second", first)
            self._before_third(case, nics)
            self._update(case, "third", first)

    def test_target_without_a_netdev_can_have_another_one(self) -> None:
        """A target that lacks a netdev of the source can add another one under its id, and is updated with that.

        The target has received the descriptors of the netdev that it lacks. They must neither be sent again as those of
        the new one nor stay open. Patch 8 (tap: cpr fixes).

        :avocado: tags=patch:cpr-fixes,patch:8,patch:delete-all-fds,patch:4,mechanism:cpr,vhost:off,queues:1
        """
        first, lacking = TapNetdev(), TapNetdev("lacking", "tap1", queues=2, cpr=True)
        with self.given_guest(GuestSpec(netdevs=(first,), role=Role.CHECKS)) as case:
            for number in (1, 2):
                case.guest.topology.add_tap(f"tap{number}", queues=3 - number)
            settings = case.guest.machine.settings
            case.guest.machine.plug(lacking)
            case.live_update(label="target-lacks-netdev", target=settings)
            machine = case.guest.machine
            with case.qemu_step():
                machine.plug(replace(lacking, interface="tap2", queues=1))
            open_taps = {row.interface for row in read_table(machine.pid).of_kind("tap")}
            meaning = "interfaces of the taps that the target has open"
            case.expect_equal("taps-of-present-netdevs", open_taps, {"tap0", "tap2"}, meaning)
            case.live_update(label="with-another-netdev", target=machine.settings)
            case.expect_answers("with-another-netdev", [first])

    def test_packet_waits_in_replaced_netdev(self) -> None:
        """An update succeeds while a packet waits in a netdev that replaced another one under its NIC.

        The guest has not taken its new interface up: without vhost QEMU reads a packet for which the NIC has no buffer,
        and hands it over with the state of the devices. The old netdev, which its NIC held until it went itself, must
        have left nothing there. An older netdev was removed: the target, which never had it, knows the packet's netdev
        by its name. Patch 12 (tap: hand over the packet that a full ring keeps waiting).

        :avocado: tags=patch:full-ring,patch:12,patch:delete-all-fds,patch:4,mechanism:cpr,vhost:off,queues:2
        """
        first, replaced = TapNetdev(), TapNetdev("again", "tap1", queues=2)
        with self.given_guest(GuestSpec(netdevs=(first, replaced), plugged=True, role=Role.CHECKS)) as case:
            case.guest.topology.add_tap("tap2", queues=2)
            case.guest.topology.add_tap("tap3", queues=2)
            machine = case.guest.machine
            nic = next(item for item in machine.settings.nics if item.netdev == "again")
            netdev = next(item for item in machine.settings.netdevs if item.identifier == "again")
            machine.remove_netdev("again")
            machine.plug(TapNetdev(GOES, "tap3", queues=2, cpr=True))
            machine.plug(replace(netdev, interface="tap2"))
            machine.remove_nic(nic.identifier)
            switch = case.guest.topology.switch
            dropped = read_counters(switch, "tap2").tx_packets  # without a NIC, QEMU drops what it reads
            machine.plug_nic(nic)
            machine.remove_netdev(GOES)
            send_frames(case.guest, [frame(BROADCAST)] * BROADCASTS)
            with contextlib.suppress(DeadlineExceeded):  # what was read is required below
                Deadline(5, "a packet to be read").poll(lambda: read_counters(switch, "tap2").tx_packets > dropped)
            read = read_counters(switch, "tap2").tx_packets - dropped  # the kernel counts what QEMU reads
            case.require("packet-waits", read > 0, "QEMU has read a packet for which the NIC has no buffer", read)
            self._update(case, "waiting-packet", first)

    def test_nic_with_option_rom_can_be_replaced(self) -> None:
        """After a NIC with an option ROM is removed, or replaced in its slot, updates send the present files only.

        A NIC has a ROM unless its ``romfile=`` is empty, and CPR hands it over as memory. Patch 15 (physmem: forget the
        CPR descriptor of freed memory).

        :avocado: tags=patch:freed-memory,patch:15,mechanism:cpr,vhost:off,queues:1
        """
        first, goes = TapNetdev(), TapNetdev("goes", "tap1")
        with self.given_guest(GuestSpec(netdevs=(first, goes), plugged=True, role=Role.CHECKS)) as case:
            (nic,) = (item for item in case.guest.machine.settings.nics if item.netdev == "goes")
            nic = replace(nic, rom=str(make_rom(case.folder)))
            for number, label in ((2, "with-rom"), (3, "with-other-rom")):
                case.guest.topology.add_tap(f"tap{number}", queues=1)
                with case.qemu_step():
                    replace_tap(case.guest.machine, nic, f"tap{number}")
                self._update(case, label, first)
            with case.qemu_step():
                case.guest.machine.remove_nic(nic.identifier)
                case.guest.machine.remove_netdev("goes")
            self._update(case, "without-rom", first)

    @staticmethod
    def _update(case: MeasuredCase, label: str, first: TapNetdev) -> None:
        """Update with the target's NICs on its command line."""
        case.live_update(label=label, target=replace(case.guest.machine.settings, plugged=False))
        case.expect_answers(label, [first])

    @staticmethod
    def _before_first(case: MeasuredCase, nics: dict[str, VirtioNet]) -> None:
        machine = case.guest.machine
        goes = next(item for item in machine.settings.netdevs if item.identifier == GOES)
        numbers = device_numbers(machine)
        machine.remove_nic(nics[GOES].identifier)
        machine.remove_netdev(GOES)
        freed = numbers - device_numbers(machine)
        expect_freed(case, "first", len(freed), goes.descriptors)
        occupy_numbers(machine, freed)
        replace_tap(machine, nics["again"], "tap3")

    @staticmethod
    def _before_second(case: MeasuredCase, nics: dict[str, VirtioNet]) -> None:
        machine = case.guest.machine
        numbers = device_numbers(machine)
        machine.plug(TapNetdev("passes", "passing", vhost=True, cpr=True))
        machine.remove_netdev("passes")
        expect_freed(case, "passing", len(device_numbers(machine) - numbers), 0)
        replace_tap(machine, nics["again"], "tap4")
        expect_freed(case, "second", len(numbers) - len(device_numbers(machine)), 0)

    @staticmethod
    def _before_third(case: MeasuredCase, nics: dict[str, VirtioNet]) -> None:
        machine = case.guest.machine
        again = next(item for item in machine.settings.netdevs if item.identifier == "again")
        numbers = device_numbers(machine)
        machine.remove_netdev("again")
        machine.plug(replace(again, interface="tap5"))
        machine.remove_nic(nics["again"].identifier)
        remove_hub_port(machine, nics["again"])
        machine.plug_nic(nics["again"])
        expect_freed(case, "third", len(numbers) - len(device_numbers(machine)), 0)


def replace_tap(machine: Machine, nic: VirtioNet, interface: str) -> None:
    """Remove a NIC and its netdev, and add both again under their ids, with another tap."""
    netdev = next(item for item in machine.settings.netdevs if item.identifier == nic.netdev)
    machine.remove_nic(nic.identifier)
    machine.remove_netdev(netdev.identifier)
    machine.plug(replace(netdev, interface=interface), nic)


def remove_hub_port(machine: Machine, nic: VirtioNet) -> None:
    """Remove a netdev that is no tap from under its NIC, and then the NIC."""
    machine.qmp.execute("netdev_add", {"type": "hubport", "id": "port", "hubid": 0})
    machine.plug_nic(replace(nic, netdev="port"))
    machine.qmp.execute("netdev_del", {"id": "port"})
    machine.remove_nic(nic.identifier)


def device_numbers(machine: Machine) -> set[int]:
    """Numbers of the tap and vhost descriptors."""
    return {row.number for row in read_table(machine.pid).rows if row.kind in DEVICE_KINDS}


def expect_freed(case: MeasuredCase, label: str, found: int, expected: int) -> None:
    """Check how many descriptors were closed."""
    case.expect_equal(
        f"{label}-descriptors-closed", found, expected, "tap and vhost descriptors closed when netdevs were removed"
    )


def occupy_numbers(machine: Machine, numbers: set[int]) -> None:
    """Open files in QEMU until these descriptor numbers are in use.

    :raises DeadlineExceeded: the kernel assigned others.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        for filler in range(MOST_FILLERS):
            if numbers <= {row.number for row in read_table(machine.pid).rows}:
                return
            machine.qmp.pass_descriptor(f"filler{filler}", null)
    finally:
        os.close(null)
    raise DeadlineExceeded("take descriptor numbers", f"{MOST_FILLERS} files did not get all of {sorted(numbers)}")
