"""A tap keeps working over a live update with ``cpr=on``: no packet lost, the same open files, vhost moves."""

from __future__ import annotations

from cprlib.qemu.command_line import global_properties
from cprlib.qemu.netdev import NIC_DRIVER
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.hooks import RecordMainChannel

PACKED = global_properties(NIC_DRIVER, {"packed": "on"})
SLOW = 0.2  # of the run's rate: each access of the driver to its device costs a trip into QEMU
OTHER_DATE = ("-rtc", "base=2020-01-01")  # with which a target would begin again if the clock were not migrated


class CprTap(LiveUpdateTest):
    """Mechanism ``cpr``, vhost off and on, with 1 and 4 queue pairs."""

    def _update(self, *, queues: int, vhost: bool, arguments: tuple[str, ...] = (), vcpus: int = 1) -> None:
        # with boot=template: of vhost off and on, one source boots and one is restored; some defects show in one only
        boots = vhost == (queues > 1)
        spec = GuestSpec(queues=queues, vhost=vhost, boots=boots, arguments=arguments, vcpus=vcpus)
        with self.given_guest(spec) as case:
            case.run_control()
            recorded = RecordMainChannel()
            with case.under_traffic(idle=queues == 1):
                case.live_update(hooks=[recorded])
            case.expect_device_state_kept(recorded.stream)

    def test_update_with_tap_1_queue_loses_nothing(self) -> None:
        """An update of a tap with one queue loses no packet and keeps the open file.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,mechanism:local,vhost:off,queues:1
        """
        self._update(queues=1, vhost=False)

    def test_update_with_tap_4_queues_loses_nothing(self) -> None:
        """An update of a tap with four queues loses no packet and keeps the open files.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,mechanism:local,vhost:off,queues:4
        """
        self._update(queues=4, vhost=False)

    def test_update_with_vmxnet3_loses_nothing(self) -> None:
        """An update of a guest whose NIC is no virtio device (vmxnet3) loses no packet.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(nic="vmxnet3", rate_share=SLOW)) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update()

    def test_update_with_packed_rings_loses_nothing(self) -> None:
        """An update of a guest with two CPUs and packed rings loses no packet: their wrap counters move too.

        The guest's real-time clock has another date than the host.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:off,queues:2
        """
        self._update(queues=2, vhost=False, arguments=(*PACKED, *OTHER_DATE), vcpus=2)

    def test_update_with_vhost_1_queue_loses_nothing(self) -> None:
        """An update of vhost-net with one queue loses no packet; the vhost worker moves to the target.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,mechanism:local,vhost:on,queues:1
        """
        self._update(queues=1, vhost=True)

    def test_update_with_vhost_4_queues_loses_nothing(self) -> None:
        """An update of vhost-net with four queues loses no packet; the vhost workers move to the target.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,mechanism:local,vhost:on,queues:4
        """
        self._update(queues=4, vhost=True)
