"""Every way to make a tap crosses an update: by name, with descriptors of a manager, with a helper's."""

from __future__ import annotations

from cprlib.testing.netdev_test import NetdevTest
from cprlib.testing.survival import survives
from netdev_update import cross_twice
from tap_sources import Programs, tap_forms


class TapForms(NetdevTest):
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
        with self.given_netdevs(tap_forms(programs)) as case, survives(case, "survives", "a guest that runs"):
            cross_twice(case, programs, plugged=False)
