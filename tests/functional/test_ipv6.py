"""The measured stream over IPv6, to a NIC behind a PCIe root port."""

from __future__ import annotations

from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest


class Ipv6(LiveUpdateTest):
    """Mechanism ``cpr`` with vhost, one queue pair."""

    def test_update_with_ipv6_loses_nothing(self) -> None:
        """An update loses no packet of a stream over IPv6 to a NIC behind a PCIe root port, as libvirt has it.

        :avocado: tags=patch:no-loss,patch:9,mechanism:cpr,mode:cpr-exec,mechanism:local,vhost:on,queues:1,ip:6
        """
        with self.given_guest(GuestSpec(vhost=True, ip_version=6, root_ports=True)) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update()
