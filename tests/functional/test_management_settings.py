"""An update with what libvirt sets for a migration, and for a guest whose memory is locked, loses no packet."""

from __future__ import annotations

from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.outcome import wait_migration

PARAMETERS = {"downtime-limit": 0, "max-bandwidth": 1 << 20}  # ms, bytes/s: an update sends almost no memory
CAPABILITIES = {"return-path": True, "pause-before-switchover": True, "auto-converge": True}
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

        The memory of the target is locked as that of the source.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,vhost:on,queues:2
        """
        with self.given_guest(GuestSpec(queues=2, vhost=True, arguments=LOCKED)) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update(hooks=[MigrateAsLibvirt()])
