"""A guest on a macvtap, of whose queues it uses some: updates, and more and fewer queue pairs after them."""

from __future__ import annotations

from cprlib.evidence.records import Role
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.qemu.vmstate import sent_format
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import exchange_packets, use_and_exchange
from cprlib.update.saved_guest import save_guest
from full_ring import fill_ring
from host_operations import EVENT_S, REBOOTS, wait_booted
from moment_updater import MomentUpdater
from operated_guest import operated_guest

CONFIGURED, IN_USE = 4, 2


class Macvtap(LiveUpdateTest):
    """Mechanism ``cpr``; management opens a macvtap and passes its descriptors (``fds=``)."""

    def test_macvtap_with_unused_queues_is_updated(self) -> None:
        """On a macvtap, unused queue pairs stay disabled, and carry packets when the guest begins to use them.

        The guest uses 2 of 4 queue pairs, all 4 after an update, and 1 after another update. Each queue is the same
        open file in the target, with the same flags, and the queues in use carry all packets. The kernel does not
        report which queues of a macvtap are disabled: the target has it from the source. Patch 14 (tap: hand over which
        queues of a macvtap are disabled). An ordinary migration does not send it: its destination has a tap of its own,
        and may be another QEMU.

        :avocado: tags=patch:macvtap,patch:14,patch:tap-cpr,patch:6,mechanism:cpr,mode:cpr-exec,vhost:on,queues:4
        """
        netdev = TapNetdev(queues=CONFIGURED, vhost=True, tap_source=TapSource.MACVTAP)
        with self.given_guest(GuestSpec(netdevs=(netdev,), role=Role.CHECKS)) as case:
            use_and_exchange(case, IN_USE, "before-update")
            case.live_update(label="first")
            exchange_packets(case, IN_USE, "after-update")
            use_and_exchange(case, CONFIGURED, "after-update-more")
            case.live_update(label="second")
            exchange_packets(case, CONFIGURED, "after-second-update")
            use_and_exchange(case, 1, "after-second-update-fewer")
            self._expect_ordinary_migration_without_tap(case)

    def test_guest_reset_while_packet_waits_is_updated(self) -> None:
        """An update succeeds after a paused guest was reset while a packet waited for its second queue pair.

        The guest boots afterwards and uses both queue pairs. The reset disables the queue. The packet must neither hide
        that from the target nor reach the guest that boots. Without vhost. Patch 12 (tap: hand over the packet that a
        full ring keeps waiting).

        :avocado: tags=patch:full-ring,patch:12,patch:macvtap,patch:14,mechanism:cpr,vhost:off,queues:2
        """
        netdev = TapNetdev(queues=IN_USE, vhost=False, tap_source=TapSource.MACVTAP)
        spec = GuestSpec(netdevs=(netdev,), arguments=REBOOTS, role=Role.CHECKS)
        with self.given_guest(spec) as case:
            updater = MomentUpdater(case)
            with operated_guest(case.guest, case.ports, IN_USE, updater) as guest:
                boot = guest.agent.identity().boot_id
                fill_ring(case, IN_USE - 1)
                guest.machine.qmp.execute("stop")
                guest.machine.qmp.execute("system_reset")
                guest.machine.wait_status("prelaunch", seconds=EVENT_S)
                updater.live_update("after-reset")
                guest.machine.qmp.execute("cont")
                wait_booted(guest, boot)
            exchange_packets(case, IN_USE, "after-boot")

    @staticmethod
    def _expect_ordinary_migration_without_tap(case: MeasuredCase) -> None:
        """Save the guest to a file, and read the names of its sections; this is the end of the guest."""
        path = case.folder / "ordinary-migration"
        with case.qemu_step():
            case.guest.machine.set_capabilities({"x-ignore-shared": True})
            save_guest(case.guest.machine, path)
        sections = [name for name in sent_format(path.read_bytes()) if name.startswith("tap/")]
        path.unlink()
        expected = "no section of a tap in an ordinary migration"
        case.expect_empty(
            "ordinary-migration-without-tap", sections, expected, "another QEMU does not know these sections"
        )
