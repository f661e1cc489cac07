"""A tap crosses a live update with ``cpr=on``: no packet lost, the same open files, the same worker's work."""

from __future__ import annotations

from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest


class CprTap(LiveUpdateTest):
    """Mechanism ``cpr``, vhost off and on, with 1 and 4 queue pairs."""

    def _cross(self, *, queues: int, vhost: bool) -> None:
        with self.given_guest(GuestSpec(queues=queues, vhost=vhost)) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update()

    def test_update_with_tap_1_queue_loses_nothing(self) -> None:
        """A tap with one queue crosses an update without a lost packet, as the same open file.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,vhost:off,queues:1
        """
        self._cross(queues=1, vhost=False)

    def test_update_with_tap_4_queues_loses_nothing(self) -> None:
        """A tap with four queues crosses an update without a lost packet, as the same open files.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,vhost:off,queues:4
        """
        self._cross(queues=4, vhost=False)

    def test_update_with_vhost_1_queue_loses_nothing(self) -> None:
        """vhost-net with one queue crosses an update without a lost packet; its worker moves.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,vhost:on,queues:1
        """
        self._cross(queues=1, vhost=True)

    def test_update_with_vhost_4_queues_loses_nothing(self) -> None:
        """vhost-net with four queues crosses an update without a lost packet; its workers move.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,vhost:on,queues:4
        """
        self._cross(queues=4, vhost=True)
