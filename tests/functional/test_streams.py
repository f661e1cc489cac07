"""A live update under streams from both ends: UDP and TCP, small and larger than the MTU."""

from __future__ import annotations

from background_traffic import background_traffic
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest


class Streams(LiveUpdateTest):
    """Mechanism ``cpr`` with vhost, one queue pair."""

    def test_streams_from_both_ends_lose_nothing(self) -> None:
        """An update loses nothing of streams from both ends and of TCP in both directions; content is equal.

        :avocado: tags=mechanism:cpr,vhost:on,queues:1,streams:all,patch:no-loss,patch:9
        """
        with self.given_guest(GuestSpec(vhost=True, rate_share=0.5)) as case:
            case.run_control()
            with case.under_traffic(), background_traffic(case):
                case.live_update()
