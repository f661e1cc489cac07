"""Updates of NICs that are added by QMP, on the source and on a target that has received its CPR state."""

from __future__ import annotations

from cprlib.evidence.records import Role
from cprlib.qemu.command_line import global_properties
from cprlib.qemu.netdev import NIC_DRIVER, TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.nic_frames import exchange_packets
from tap_programs import Programs
from tap_sources import taps_from_every_source, update_twice

# the timer in ns; with ioeventfds QEMU looks into every ring when a guest runs again, whatever the timer does
BY_TIMER = global_properties(NIC_DRIVER, {"tx": "timer", "x-txtimer": "50000000", "ioeventfd": "off"})


class HotPlug(LiveUpdateTest):
    """Mechanism ``cpr``; the target is started with ``-incoming defer`` and gets ``netdev_add`` and ``device_add``."""

    def test_every_tap_source_is_updated_by_hot_plug(self) -> None:
        """Taps from every source are updated by hot-plug on both sides: the same files, no program run again.

        As on the command line, but with ``netdev_add`` and ``device_add`` by QMP, and descriptors passed by
        ``getfd``. Patch 6 (tap: cpr support).

        :avocado: tags=patch:tap-cpr,patch:6,mechanism:cpr,vhost:on,queues:4,plug:hot
        """
        programs = Programs.made_in(self.outputdir)
        netdevs = taps_from_every_source(programs)
        with self.given_guest(GuestSpec(netdevs=netdevs, plugged=True, role=Role.CHECKS)) as case:
            update_twice(case, programs, plugged=True)

    def test_update_with_4_hot_plugged_queues_loses_nothing(self) -> None:
        """An update of four queues without vhost, plugged into the target by QMP, loses no packet.

        Seen in review: with queues=4 and vhost off, ``netdev_add`` with ``cpr=on`` and then ``device_add`` on the
        target by QMP ended in an assertion; on the command line it worked. The guest uses two of the four queue pairs
        from its boot on, and afterwards all, two and all of them, which carry packets. The NIC sends by a timer, so
        that packets of the guest wait when it stops. Patches 7 (tap: postload fix for cpr) and 8 (tap: cpr fixes).

        :avocado: tags=patch:postload,patch:7,patch:cpr-fixes,patch:8
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:off,queues:4,plug:hot
        """
        # The guest disables no queue before: QEMU does not migrate packets that wait for the timer of one.
        spec = GuestSpec(netdevs=(TapNetdev(queues=4),), used=2, plugged=True, arguments=BY_TIMER, role=Role.UPDATE)
        with self.given_guest(spec) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update()
            pairs = [case.guest.agent.set_queue_pairs(count) for count in (4, 2, 4)]
            case.expect_equal("queue-pairs-after", pairs, [4, 2, 4])
            exchange_packets(case, 4, "after-update")
