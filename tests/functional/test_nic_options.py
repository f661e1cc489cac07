"""Options of netdev and NIC that no packet tells of: busy polling, receive-side scaling."""

from __future__ import annotations

from busy_polling import POLL_US, expect_polling, share_of_workers
from cprlib.evidence.case import Role
from cprlib.qemu.netdev import TapNetdev
from cprlib.qemu.nic_state import device_facts
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.nic_frames import queues_of_flows
from cprlib.testing.queue_pairs import QueuePairs
from cprlib.update.fault_injection import inject_fault
from cprlib.update.faults import faults_named

QUEUES = 4
RSS = ("-global", "virtio-net-pci.rss=on")
RSS_FEATURE = "VIRTIO_NET_F_RSS"


class NicOptions(LiveUpdateTest):
    """Mechanism ``cpr``; a NIC with an option that is seldom set."""

    def test_busy_polling_is_kept(self) -> None:
        """With ``poll-us`` vhost polls as busily in the target, and in a source that goes on after a failed update.

        The kernel forgets the time when a vhost device is given up, and has no call that tells it: what tells is how
        much of a core the workers take while a few packets come. Patches 3 (vhost: reset vhost devices for cpr) and 6.

        :avocado: tags=patch:vhost-reset,patch:3,patch:tap-cpr,patch:6,mechanism:cpr,vhost:on,queues:1
        """
        netdev = TapNetdev(vhost=True, poll_us=POLL_US)
        with self.given_guest(GuestSpec(netdevs=(netdev,), role=Role.CHECKS)) as case:
            before = share_of_workers(case)
            case.live_update()
            expect_polling(case, "in-the-target", before, share_of_workers(case))
            inject_fault(case.guest, *faults_named("target-killed-with-devices"))
            expect_polling(case, "after-a-failed-update", before, share_of_workers(case))
            case.expect_no_complaint()

    def test_receive_side_scaling_is_kept(self) -> None:
        """A guest's receive-side scaling, key and table, puts each flow into the same queue after an update.

        Without vhost QEMU itself hashes the packets. Patch 8 (tap: cpr fixes): the NIC is as before.

        :avocado: tags=patch:cpr-fixes,patch:8,mechanism:cpr,vhost:off,queues:4
        """
        with self.given_guest(GuestSpec(queues=QUEUES, arguments=RSS, role=Role.CHECKS)) as case:
            QueuePairs(case).use(QUEUES, "before-update")
            before = queues_of_flows(case.guest)
            expected = "each of 8 flows in the queue that the guest's table has for it"
            case.live_update()
            after, features = queues_of_flows(case.guest), device_facts(case.guest.machine.qmp)["guest-features"]
            if before is None or RSS_FEATURE not in features:
                case.inconclusive("flows-by-hash", expected, f"flows by queue {before}; the guest uses {features}")
                return
            case.expect(
                "flows-by-hash",
                before == after,
                f"{expected}: {before}",
                f"{after}",
                f"flows went into the guest's queues as {before}, now as {after}: its hash or table is not in force",
            )
            case.expect_no_complaint()
