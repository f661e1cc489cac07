"""How many packets/s this machine's guest carries: the limit below which a measurement can be believed."""

from __future__ import annotations

from dataclasses import replace

from cprlib.evidence.case import Role
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from highest_rate import search_highest_rate


class HighestRate(LiveUpdateTest):
    """The instrument and the guest without an update."""

    def test_highest_rate_carried(self) -> None:
        """The rate of this run is carried without loss; the highest one that is stands in the report.

        Rates are doubled from the run's own until one loses packets, then bisected. A machine that does not
        carry the run's rate makes this inconclusive, as a control run with losses does.

        :avocado: tags=mechanism:none,vhost:on,queues:1,instrument:rate
        """
        with self.given_guest(GuestSpec(vhost=True, role=Role.CHECKS)) as case, case.without_update():
            found = search_highest_rate(case, first=self.parameters.rate)
            more = {**case.evidence.parameters.more, "highest rate carried (packets/s)": found.highest}
            case.evidence = replace(case.evidence, parameters=replace(case.evidence.parameters, more=more))
            wanted = f"{self.parameters.rate:,.0f} packets/s or more"
            if found.highest is not None and found.highest >= self.parameters.rate:
                case.expect("highest-rate-carried", True, wanted, found)
            else:
                case.inconclusive("highest-rate-carried", wanted, f"{found}; lower the rate with -p rate=N")
