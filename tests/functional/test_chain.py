"""Updates in a row of one guest: a target has to be as good a source as the QEMU that booted the guest."""

from __future__ import annotations

from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import CONTROL_RUN_S, ChainStep


class Chain(LiveUpdateTest):
    """Mechanism ``cpr``; how many updates is what the names say, or parameter ``chain``."""

    timeout = 600

    def _chain(self, length: int, *, queues: int, vhost: bool) -> None:
        with self.given_guest(GuestSpec(queues=queues, vhost=vhost)) as case:
            steps = [ChainStep()] * (self.parameters.chain or length)
            case.run_control(CONTROL_RUN_S * len(steps))
            case.update_chain(steps)

    def test_chain_of_5_updates_loses_nothing(self) -> None:
        """Five updates in a row lose nothing; each hands over the same open files, and nothing grows.

        A descriptor that a target received has to be saved for its successor, and dropped by those that are gone. Each
        update has identity checks of its own; descriptors of every kind and QEMU's own memory stay as they are in the
        first target; the interruption is told for each update. Origin: patch 6, which saves the descriptors, and
        patch 4, which forgets them; a hand-over of the second generation is where that goes wrong.

        :avocado: tags=patch:tap-cpr,patch:6,patch:delete-all-fds,patch:4,mechanism:cpr,vhost:on,queues:2,chain:5
        """
        self._chain(5, queues=2, vhost=True)
