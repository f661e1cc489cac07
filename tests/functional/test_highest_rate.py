"""The highest rate that this machine's guest carries: measurements above it are inconclusive."""

from __future__ import annotations

from cprlib.evidence.records import Role
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from highest_rate import search_highest_rate

MOST = 4.0  # times the run's rate


class HighestRate(LiveUpdateTest):
    """The instrument and the guest without an update."""

    def test_highest_rate_carried(self) -> None:
        """The rate of this run is carried without loss; the report shows the highest such rate.

        The rate is doubled, beginning with the run's own, up to four times that. When packets are lost, the interval is
        bisected. On a machine that does not carry the run's rate the case is inconclusive, as a control run with losses
        is.

        :avocado: tags=mechanism:none,vhost:on,queues:1,instrument:rate
        """
        with self.given_guest(GuestSpec(vhost=True, role=Role.CHECKS)) as case, case.control_step():
            found = search_highest_rate(case, first=self.parameters.rate, limit=MOST * self.parameters.rate)
            case.note("highest rate carried (packets/s)", found.highest)
            expected = f"{self.parameters.rate:,.0f} packets/s or more"
            carried = (found.highest or 0) >= self.parameters.rate
            case.require("highest-rate-carried", carried, expected, found, f"{found}; lower the rate with -p rate=N")
