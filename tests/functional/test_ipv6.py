"""The measured stream over IPv6: other addresses, another checksum, the same update."""

from __future__ import annotations

from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest


class Ipv6(LiveUpdateTest):
    """Mechanism ``cpr`` with vhost, one queue pair."""

    def test_update_with_ipv6_loses_nothing(self) -> None:
        """A stream over IPv6 crosses an update without a lost packet.

        :avocado: tags=patch:no-loss,patch:9,mechanism:cpr,vhost:on,queues:1,ip:6
        """
        with self.given_guest(GuestSpec(vhost=True, ip_version=6)) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update()
