"""No update: the instrument and this machine alone."""

from __future__ import annotations

from cprlib.evidence.records import Role, StatePair
from cprlib.testing.equivalence import read_state
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.mechanism import Mechanism


class ControlRun(LiveUpdateTest):
    """The same traffic as in other cases, and no update."""

    def test_no_update_loses_nothing(self) -> None:
        """Without an update no packet is lost, duplicated or reordered.

        :avocado: tags=mechanism:none,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(Mechanism.LINK_SWITCH, role=Role.CONTROL_RUN)) as case:
            with case.under_traffic():
                pass
            state, qmp = read_state(case.guest), case.guest.machine.qmp
            qmp.execute("stop")
            qmp.execute("cont")
            case.expect_same_state(state, StatePair.STOP_CONT, "equivalent-after-stop-cont", "stop and cont")
