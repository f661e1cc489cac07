"""Every way to make a tap crosses an update: by name, with descriptors of a manager, with a helper's."""

from __future__ import annotations

from cprlib.evidence.case import Role
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from netdev_update import cross_twice
from tap_sources import Programs, tap_forms


class TapForms(LiveUpdateTest):
    """Mechanism ``cpr``; several NICs in one guest, each made in its own way."""

    def test_every_tap_source_is_updated_on_command_line(self) -> None:
        """Every way to make a tap crosses an update on the command line: the same files, no program run again.

        ``ifname`` (1, 4 and 9 queues, with ``vhostfd``), ``fd``, ``fds``, ``vhostfd``, ``vhostfds``, ``helper``, and a
        tap that the kernel names. Two updates: one in which the target is given ``fd=-1`` and the like, one in which
        it is not. The up script and the helper run once, the down script when the last target ends, and not when one
        fails; the tap that the kernel named is gone then.
        Patch 6 (tap: cpr support).

        :avocado: tags=patch:tap-cpr,patch:6,mechanism:cpr,vhost:on,queues:4
        """
        programs = Programs.made_in(self.outputdir)
        with self.given_guest(GuestSpec(netdevs=tap_forms(programs), role=Role.CHECKS)) as case:
            cross_twice(case, programs, plugged=False)
