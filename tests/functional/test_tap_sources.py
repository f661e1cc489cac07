"""Updates of taps from every source: by name, with descriptors from management, from a helper."""

from __future__ import annotations

from cprlib.evidence.records import Role
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from tap_programs import Programs
from tap_sources import taps_from_every_source, update_twice


class TapSources(LiveUpdateTest):
    """Mechanism ``cpr``; several NICs in one guest, each tap from another source."""

    def test_every_tap_source_is_updated_on_command_line(self) -> None:
        """Taps from every source are updated on the command line: the same files, no program run again.

        ``ifname`` (1, 2, 4 and 9 queues, with ``vhostfd``), ``fd``, ``fds``, ``vhostfd``, ``vhostfds``, ``helper``, and
        taps that the kernel names. Two updates: one in which the target is given ``fd=-1`` and the like, one in which
        it is not. The up script and the helper run once, the down script when the last target ends, and not when one
        fails or ends before the guest runs in it; those that the kernel named are gone then.
        Patch 6 (tap: cpr support).

        :avocado: tags=patch:tap-cpr,patch:6,mechanism:cpr,vhost:on,queues:4
        """
        programs = Programs.made_in(self.outputdir)
        with self.given_guest(GuestSpec(netdevs=taps_from_every_source(programs), role=Role.CHECKS)) as case:
            update_twice(case, programs, plugged=False)
