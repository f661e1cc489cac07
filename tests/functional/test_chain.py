"""Several updates of one guest: a target has to be as good a source as the QEMU that booted the guest."""

from __future__ import annotations

from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import CONTROL_RUN_S


class Chain(LiveUpdateTest):
    """Mechanism ``cpr``; parameter ``chain`` is the number of updates, 5 by default."""

    timeout = 600

    def test_chain_of_updates_loses_nothing(self) -> None:
        """Several updates of one guest lose nothing; each hands over the same open files, and nothing grows.

        A target has to save a descriptor that it received for its own successor, and drop those of removed netdevs.
        Each update has descriptor checks of its own; the number of descriptors of each kind and QEMU's own memory stay
        as they are in the first target; each update has its own interruption. Patch 6 saves the descriptors, patch 4
        deletes them.

        :avocado: tags=patch:tap-cpr,patch:6,patch:delete-all-fds,patch:4
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:2,chain:5
        """
        updates = self.parameters.chain or 5
        with self.given_guest(GuestSpec(queues=2, vhost=True)) as case:
            case.run_control(CONTROL_RUN_S * updates)
            case.update_chain(updates)
