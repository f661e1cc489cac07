"""Management passes one tap to both QEMUs: no descriptor is handed over, and packets are lost all the same."""

from __future__ import annotations

from cprlib.evidence.records import Role
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import CONTROL_RUN_S
from cprlib.update.mechanism import Mechanism

UPDATES = 3


class FdShare(LiveUpdateTest):
    """Mechanism ``fd-share`` loses packets that no interface counts, which the ledger has to place."""

    def test_fd_share_loses_packets(self) -> None:
        """One tap open in two QEMUs loses packets between tap and guest, where no interface counts them.

        Three updates, because one loses a packet or two, or none when no packet arrives while the guest stands still.
        The ledger places them at hop ``qemu``: read from the tap, never seen by the guest.

        :avocado: tags=mechanism:fd-share,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(Mechanism.FD_SHARE, role=Role.NEGATIVE_CONTROL)) as case:
            case.run_control(CONTROL_RUN_S * UPDATES)
            case.update_chain(UPDATES, growth=False)
