"""A live update under streams from both ends: UDP and TCP, small and larger than the MTU."""

from __future__ import annotations

from background_traffic import background_traffic
from cprlib.qemu.command_line import global_properties
from cprlib.qemu.netdev import NIC_DRIVER
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest

NO_MSIX = global_properties(NIC_DRIVER, {"vectors": "0"})


class Streams(LiveUpdateTest):
    """Mechanism ``cpr`` with vhost, one queue pair."""

    def test_streams_from_both_ends_lose_nothing(self) -> None:
        """An update loses nothing of streams from both ends and of TCP in both directions; content is equal.

        The NIC is behind a PCIe root port and has no MSI-X, as in a guest with ``pci=nomsi``: it asserts an interrupt
        line, whose level is state.

        :avocado: tags=mechanism:cpr,mode:cpr-exec,mechanism:local,vhost:on,queues:1,streams:all,patch:no-loss,patch:9
        """
        with self.given_guest(GuestSpec(vhost=True, rate_share=0.5, root_ports=True, arguments=NO_MSIX)) as case:
            case.run_control()
            with case.under_traffic(), background_traffic(case):
                case.live_update()
