"""A guest that is too busy to receive: its ring is full, and packets wait in front of it, when the update comes."""

from __future__ import annotations

from cprlib.evidence.case import Role
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.fault_injection import inject_fault
from cprlib.update.faults import faults_named
from full_ring import LONG_MS, FullRing


class FullReceiveRing(LiveUpdateTest):
    """Mechanism ``cpr``; one queue pair whose receive ring is full."""

    def _cross(self, *, vhost: bool) -> None:
        with self.given_guest(GuestSpec(vhost=vhost, role=Role.CHECKS)) as case:
            ring = FullRing(case)
            with ring.full("across-a-failed-update", wait_ms=LONG_MS):
                inject_fault(case.guest, *faults_named("target-killed-with-devices"))
            with ring.full("across-an-update", wait_ms=LONG_MS):
                case.live_update()
            with ring.full("in-the-target"):
                pass
            case.expect_no_complaint()

    def test_packets_for_full_ring_arrive_without_vhost(self) -> None:
        """Packets that wait for a full ring arrive after an update, and after one that failed, without vhost.

        QEMU notices only with a packet in hand that the ring has no room for it, and stops reading the tap. Patch 12
        (tap: hand over the packet that a full ring keeps waiting).

        :avocado: tags=patch:full-ring,patch:12,patch:no-loss,patch:9,mechanism:cpr,vhost:off,queues:1
        """
        self._cross(vhost=False)

    def test_packets_for_full_ring_arrive_with_vhost(self) -> None:
        """Packets that wait for a full ring arrive after an update, and after one that failed, with vhost.

        vhost leaves them in the tap until the guest tells that there is room (handle_rx(), drivers/vhost/net.c).

        :avocado: tags=patch:vhost-reset,patch:3,patch:no-loss,patch:9,mechanism:cpr,vhost:on,queues:1
        """
        self._cross(vhost=True)
