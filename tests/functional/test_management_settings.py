"""An update with what libvirt sets for a migration, and for a guest whose memory is locked, loses no packet."""

from __future__ import annotations

from itertools import chain

from cprlib.qemu.binary import device_types
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.outcome import wait_migration

PARAMETERS = {"downtime-limit": 0, "max-bandwidth": 1 << 20}  # ms, bytes/s: an update sends almost no memory
CAPABILITIES = {"return-path": True, "pause-before-switchover": True, "auto-converge": True}
RNG = ("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0")
DEVICES = {  # that libvirt adds to a guest
    "VGA": ("-device", "VGA,romfile="),
    "virtio-balloon-pci": ("-device", "virtio-balloon-pci"),
    "virtio-rng-pci": RNG,
    "i6300esb": ("-device", "i6300esb"),
    "pvpanic": ("-device", "pvpanic"),
    "usb-tablet": ("-device", "qemu-xhci", "-device", "usb-tablet"),
}
LOCKED = ("-overcommit", "mem-lock=on")  # <memoryBacking><locked/>: for guests of telephone networks, and with SEV


class MigrateAsLibvirt(UpdateHook):
    """Set parameters and capabilities of the migration, and start the switchover by ``migrate-continue``."""

    def before_target(self, update: LiveUpdate) -> None:
        update.source.qmp.execute("migrate-set-parameters", PARAMETERS)
        update.capabilities |= CAPABILITIES

    def after_stop(self, update: LiveUpdate) -> None:
        """Continue when the source waits before the switchover.

        :raises DeadlineExceeded, QemuFailed: it does not wait.
        """
        wait_migration(update.source, "pre-switchover")
        update.source.qmp.execute("migrate-continue", {"state": "pre-switchover"})


class ManagementSettings(LiveUpdateTest):
    """Updates as libvirt carries out migrations (src/qemu/qemu_migration_params.c)."""

    def test_update_with_settings_of_management_loses_nothing(self) -> None:
        """An update that waits for management before the switchover, with a limit of the downtime, loses no packet.

        The memory of the target is locked as that of the source. The guest has the devices of libvirt's guests that
        this QEMU has.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,mechanism:local,vhost:on,queues:2
        """
        known = device_types(self.qemu)
        devices = [options for name, options in DEVICES.items() if name in known]
        arguments = (*LOCKED, *chain.from_iterable(devices))
        with self.given_guest(GuestSpec(queues=2, vhost=True, arguments=arguments)) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update(hooks=[MigrateAsLibvirt()])
