"""Updates while the NIC is not in normal use: down, without a driver, paused, unplugged, powered off, booting."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from cprlib.errors import NotSupported, SkipWord
from cprlib.evidence.records import Role
from cprlib.qemu.command_line import global_properties
from cprlib.qemu.netdev import NIC_DRIVER, TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from host_operations import REBOOTS, SINGLE_PACKETS
from moment_updater import MomentUpdater
from nic_moments import (
    DRIVER_UNBOUND,
    INTERFACE_DOWN,
    LINK_DOWN,
    NETDEV_LINK_DOWN,
    OFFLOADS_OFF,
    PLUG_PENDING,
    RING_BROKEN,
    SMALL_RINGS,
    TAP_DOWN,
    UNPLUG,
    UNPLUGGED,
)
from operated_guest import operated_guest
from operations import Operation, checked_operations
from run_state_moments import (
    ALARM_SET,
    BUTTON,
    NOT_STARTED,
    PAUSED,
    POWERED_OFF,
    REBOOT,
    STOPPED_BY_WATCHDOG,
    SUSPENDED,
    SUSPENDED_AND_STOPPED,
    watchdog_arguments,
)
from serial_port import serial_moments, serial_port

QUEUES = 2
SPEED = global_properties(NIC_DRIVER, {"speed": "10000", "duplex": "full"})
NO_NETDEV = ("-device", f"{NIC_DRIVER},id=no-netdev,addr=1e")  # behind all others; not 1f: docs/findings.md
NO_HPET = ("-machine", "hpet=off")  # with one, Linux emulates interrupts of the real-time clock
NIC_MOMENTS = (
    INTERFACE_DOWN,
    DRIVER_UNBOUND,
    RING_BROKEN,
    SMALL_RINGS,
    OFFLOADS_OFF,
    LINK_DOWN,
    NETDEV_LINK_DOWN,
    TAP_DOWN,
    UNPLUG,
    PLUG_PENDING,
    UNPLUGGED,
)
GUEST_MOMENTS = (
    PAUSED,
    ALARM_SET,
    BUTTON,
    STOPPED_BY_WATCHDOG,
    SUSPENDED,
    SUSPENDED_AND_STOPPED,
    NOT_STARTED,
    POWERED_OFF,
    REBOOT,
)


class Moments(LiveUpdateTest):
    """Mechanism ``cpr``; machine ``pc``, whose bus takes NICs as it is."""

    def test_update_works_in_any_state_of_the_nic(self) -> None:
        """An update works, and the NIC after it, whatever guest and management are doing with the NIC.

        Interface down; no driver; a ring broken (without vhost); link or tap down; small rings; an offload off; plug or
        unplug pending; unplugged. What fails is repeated without updates; if it fails there too, the check is
        inconclusive. Parameters ``queues``, ``vhost``: fixtures/matrix/moments.yaml.

        :avocado: tags=patch:tap-cpr,patch:6,patch:vhost-reset,patch:3,patch:postload,patch:7,patch:no-loss,patch:9
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:2
        """
        self._update_at(NIC_MOMENTS, "driver-unbound")

    def test_update_works_in_any_state_of_the_guest(self) -> None:
        """An update works, and the NIC after it, whether the guest runs, waits, sleeps, boots or is powered off.

        Paused (two updates); stopped by its watchdog; suspended, also stopped; power button pressed; alarm set; reset
        but not started; powered off; five updates during a reboot; input or output waits in its serial port. What
        fails, and the parameters, are treated as with the states of the NIC.

        :avocado: tags=patch:tap-cpr,patch:6,patch:vhost-reset,patch:3,patch:postload,patch:7,patch:no-loss,patch:9
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:2
        """
        with serial_port() as port:
            arguments = (*port.arguments, *watchdog_arguments(self.qemu))
            self._update_at((*serial_moments(port), *GUEST_MOMENTS), "rebooting-1", arguments)

    def test_moments_without_vhost(self) -> None:
        """Without vhost, updates succeed while the guest is paused or suspended, its link down, or a ring broken.

        To QEMU's devices a guest that is suspended to RAM is stopped, and they get no event when it runs again. It has
        another NIC, which has no netdev, and no HPET: the alarm of its real-time clock is the clock's own. Patch 9.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:off,queues:2
        """
        with self._given_guest(queues=QUEUES, vhost=False, arguments=(*NO_NETDEV, *NO_HPET)) as case:
            update_at(
                case, (RING_BROKEN, LINK_DOWN, NETDEV_LINK_DOWN, PAUSED, ALARM_SET, SUSPENDED, SUSPENDED_AND_STOPPED)
            )

    def _update_at(self, moments: Sequence[Operation], without_driver: str, arguments: Sequence[str] = ()) -> None:
        """Update a guest, with queue pairs and vhost as the parameters say, at each of the moments.

        :param without_driver: label of the update in which the NIC must have no driver.
        """
        run = self.parameters
        vhost = run.vhost is not False
        with self._given_guest(queues=run.queues or QUEUES, vhost=vhost, arguments=arguments) as case:
            expect_no_driver(case, update_at(case, moments), without_driver)

    def _given_guest(
        self, *, queues: int, vhost: bool, arguments: Sequence[str] = ()
    ) -> contextlib.AbstractContextManager[MeasuredCase]:
        netdevs = (TapNetdev(queues=queues, vhost=vhost),)
        arguments = (*REBOOTS, *SPEED, *arguments)
        return self.given_guest(
            GuestSpec(netdevs=netdevs, pluggable=True, suspends=True, arguments=arguments, role=Role.CHECKS)
        )


def update_at(case: MeasuredCase, moments: Sequence[Operation]) -> MomentUpdater:
    """Update a guest that uses all its queue pairs, then at each of the moments, and once more.

    :raises NotSupported: the guest can be brought to none of the moments.
    """
    updater, queues = MomentUpdater(case), case.guest.machine.settings.netdevs[0].queues
    with (
        operated_guest(case.guest, case.ports, queues, updater) as guest,
        checked_operations(case, guest, (*moments, SINGLE_PACKETS)) as checked,
    ):
        if checked.excluded.issuperset(moment.name for moment in moments):
            happened = "the guest has no suspend to RAM, or its kernel is no bzImage"
            raise NotSupported("suspend the guest", happened, "use another machine type", word=SkipWord.NO_SUSPEND)
        updater.live_update("first")  # the target has other descriptors than a QEMU that booted
        if checked.run("at-update", moments):
            updater.live_update("last")
            checked.run("after-last-update", (SINGLE_PACKETS,))
    return updater


def expect_no_driver(case: MeasuredCase, updater: MomentUpdater, label: str) -> None:
    """Check that the NIC had no driver in one update; note what it had in each update of a boot.

    :param label: of the update that has to come when the NIC has no driver.
    """
    states = {None: "unknown", True: "driver", False: "no driver"}
    state = states[updater.had_driver.get(label)]
    name, expected = f"{label}-without-driver", "the NIC has no driver when the guest stops"
    reason = f"{state}: the update did not come at this moment"
    case.require(name, state == "no driver", expected, state, reason)
    if seen := [states[had] for update, had in updater.had_driver.items() if update.startswith("rebooting")]:
        case.note("driver in the updates of one boot", ", ".join(seen))
