"""An update while the guest's receive ring is full and packets wait in the tap, or the tap's send buffer is full."""

from __future__ import annotations

from dataclasses import replace

from cprlib.evidence.records import Role
from cprlib.linux.supervised_calls import SupervisedCalls
from cprlib.qemu.command_line import global_properties
from cprlib.qemu.netdev import NIC_DRIVER, TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.nic_frames import use_queue_pairs
from cprlib.testing.parameters import PROPERTY_IS_ON
from cprlib.update.faults import faults_named
from cprlib.update.live_update import LiveUpdate, UpdateHook
from full_ring import (
    FAILED_UPDATE_MS,
    QUEUES,
    UPDATE_MS,
    buffers_are_known,
    full_ring,
    large_packet_waits,
)
from full_send_buffer import (
    WRITE_TO_TAP,
    each_frame_once,
    expect_completed,
    expect_link_can_go_down,
    full_send_buffer,
)

NO_ANNOUNCEMENTS = ("-global", "migration.announce-rounds=0")
IOEVENTFD_OFF, EVENT_IDX_OFF = {"ioeventfd": "off"}, {"event_idx": "off"}


class RoomWhenStopped(UpdateHook):
    """The tap has room again when the guest has stopped, and its QEMU could send what waits."""

    def __init__(self, calls: SupervisedCalls) -> None:
        self._calls = calls

    def after_stop(self, update: LiveUpdate) -> None:  # noqa: ARG002
        """Let all calls pass again."""
        self._calls.disarm()


class FullReceiveRing(LiveUpdateTest):
    """Mechanism ``cpr``; one queue pair whose receive ring is full, and another NIC.

    The target of an update has the netdevs in another order: what waits belongs to a netdev, not to the first one.
    """

    def _update(self, *, vhost: bool) -> None:
        netdevs = (TapNetdev(vhost=vhost), TapNetdev("net1", "tap1", vhost=vhost))
        with self.given_guest(GuestSpec(netdevs=netdevs, role=Role.CHECKS)) as case:
            own = case.guest.machine.settings
            case.compares_states = False  # reading them takes longer than a ring may stay full
            with full_ring(case, "across-a-failed-update", wait_ms=FAILED_UPDATE_MS):
                case.inject_fault(*faults_named("target-killed-loading"))
            with full_ring(case, "across-an-update", wait_ms=UPDATE_MS):
                case.live_update(target=replace(own, netdevs=own.netdevs[::-1]))
            case.guest.machine.settings = own
            with full_ring(case, "in-the-target"):
                pass
            skipped = ("ring-full-across-two-updates", "large-packet-arrives-across-an-update")
            if not vhost and buffers_are_known(case, *skipped):
                # an announcement of the other NIC would arrive here, and any packet lets QEMU deliver what waits
                silent = replace(own, extra=(*own.extra, *NO_ANNOUNCEMENTS))
                with full_ring(case, "across-two-updates", wait_ms=UPDATE_MS, only_one_waits=True):
                    case.live_update(label="one-waits", target=silent)
                    case.live_update(label="one-still-waits", target=silent)
                with large_packet_waits(case, "across-an-update") as recorded:
                    case.live_update(hooks=[recorded])
            case.expect_no_nic_error()

    def test_packets_for_full_ring_arrive_without_vhost(self) -> None:
        """Packets that wait for a full ring arrive after an update, and after one that failed, without vhost.

        QEMU reads a packet before it finds that the ring has no room for it; then it stops reading the tap. Patch 12
        (tap: hand over the packet that a full ring keeps waiting).

        :avocado: tags=patch:full-ring,patch:12,patch:no-loss,patch:9,mechanism:cpr,vhost:off,queues:1
        """
        self._update(vhost=False)

    def test_packets_for_full_ring_arrive_with_vhost(self) -> None:
        """Packets that wait for a full ring arrive after an update, and after one that failed, with vhost.

        vhost leaves them in the tap until the guest reports room (handle_rx(), drivers/vhost/net.c).

        :avocado: tags=patch:vhost-reset,patch:3,patch:no-loss,patch:9
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:1
        """
        self._update(vhost=True)


class FullSendBuffer(LiveUpdateTest):
    """Mechanism ``cpr``; a tap that has no room for packets of the guest."""

    def test_packets_for_full_send_buffer_arrive(self) -> None:
        """Packets of the guest that wait for room in the tap arrive after an update, on each queue pair.

        QEMU takes a packet from the ring before it finds that the tap has no room for it; vhost leaves it there. Patch
        13 (virtio-net: leave a packet in the ring that the backend has no room for).

        A single packet that had to wait is reported to the guest, whose socket has its room back. So are packets that
        wait when the link goes down.

        The NIC has ``ioeventfd=off``: else QEMU looks into every ring when a guest runs again, also where it has
        forgotten that packets wait. Packed rings have ``event_idx=off``: with it, QEMU's stop sending after packets
        have waited, without any update (docs/findings.md).

        :avocado: tags=patch:full-send-buffer,patch:13,mechanism:cpr,mode:cpr-exec,vhost:off,queues:2
        """
        packed = self.parameters.nic_properties.get("packed") in PROPERTY_IS_ON
        netdevs = (TapNetdev(queues=QUEUES),)
        arguments = global_properties(NIC_DRIVER, IOEVENTFD_OFF | (EVENT_IDX_OFF if packed else {}))
        with (
            SupervisedCalls((WRITE_TO_TAP,)) as calls,
            self.given_guest(GuestSpec(netdevs=netdevs, arguments=arguments, role=Role.CHECKS)) as case,
        ):
            own = case.guest.machine.settings
            use_queue_pairs(case, QUEUES, "before-update")
            case.live_update(label="under-filter", target=replace(own, prefix=calls.prefix))
            case.guest.machine.settings = own  # the next target is to run without the filter
            with each_frame_once(case, "without-an-update"), full_send_buffer(case, calls, "without-an-update"):
                pass
            with each_frame_once(case, "across-a-pause"), full_send_buffer(case, calls, "across-a-pause"):
                case.guest.machine.qmp.execute("stop")  # as each update does, also one that fails
                calls.disarm()
                case.guest.machine.qmp.execute("cont")
            with full_send_buffer(case, calls, "of-one-packet", answers=1, flow_count=1):
                pass
            expect_completed(case, "of-one-packet")
            if packed:
                case.note("link down", "not tested: QEMU's packed ring stops sending then, also without an update")
            else:
                expect_link_can_go_down(case, calls)
            with full_send_buffer(case, calls, "across-an-update"):
                case.live_update(label="full-send-buffer", hooks=[RoomWhenStopped(calls)])
