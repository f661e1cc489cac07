"""The traditional way, as the negative control: a new tap for the target, the old link down, the new one up."""

from __future__ import annotations

from cprlib.evidence.records import Role
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.mechanism import Mechanism


class LinkSwitch(LiveUpdateTest):
    """Mechanism ``link-switch`` is known to lose packets: an instrument that sees none is not to be trusted."""

    def test_link_switch_loses_packets(self) -> None:
        """Switching links loses packets, and the instrument counts them.

        :avocado: tags=mechanism:link-switch,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(Mechanism.LINK_SWITCH, role=Role.NEGATIVE_CONTROL)) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update()
