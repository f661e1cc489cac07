"""The manager gives one tap to both QEMUs: no descriptor has to cross, and packets are lost all the same."""

from __future__ import annotations

from cprlib.verdict.evidence import Role
from fixtures.live_update_test import LiveUpdateTest


class FdShare(LiveUpdateTest):
    """Mechanism ``fd-share`` loses packets that no interface counts, which the ledger has to place."""

    def test_fd_share_loses_packets(self) -> None:
        """One tap open in two QEMUs loses packets between tap and guest, where no interface counts them.

        :avocado: tags=mechanism:fd-share,vhost:off,queues:1
        """
        with self.given_guest("fd-share", role=Role.CONTRAST) as case:
            case.calibrate()
            with case.under_traffic():
                case.live_update()
