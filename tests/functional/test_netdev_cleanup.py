"""A refused ``netdev_add`` leaves nothing behind: no descriptor, no worker, no netdev, nothing that CPR would send."""

from __future__ import annotations

from cprlib.evidence.case import Role
from cprlib.linux.procfs import vhost_workers, wait_workers_ended
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.checks import listed
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.netdev_checks import expect_answers, update_guest
from netdev_refusals import attempts, helper_failures, refusals
from netdev_refused import MEANINGS, Refuser
from tap_sources import Programs


class NetdevCleanup(LiveUpdateTest):
    """Mechanism ``cpr``; many refused additions to one running guest."""

    def test_refused_netdev_add_leaves_nothing(self) -> None:
        """Whichever check refuses a ``netdev_add``, QEMU's descriptors are as before, the id is free, nothing is saved.

        All invalid combinations of tap options (netdev_refusals.py), with vhost and cpr off and on. After each
        the descriptor table is compared row by row, and the id is used for a netdev that works. Afterwards an update
        sends the descriptors of the guest's own NICs only. Patch 5 (tap: common return label).

        :avocado: tags=patch:tap-cleanup,patch:5,patch:delete-all-fds,patch:4,mechanism:cpr,vhost:on,queues:1
        """
        netdevs = [TapNetdev(vhost=True), TapNetdev("other", "tap1")]
        programs = Programs.made_in(self.outputdir)
        with self.given_guest(GuestSpec(netdevs=tuple(netdevs), role=Role.CHECKS)) as case:
            case.guest.topology.add_tap("tap2", queues=1)
            refuser = Refuser(case.guest.machine)
            workers = len(vhost_workers(case.guest.machine.pid))
            rows = attempts(refusals(programs))
            with case.survives("survives-refusals"):
                for row in rows:
                    refuser.attempt(row)
            for name, doubts in refuser.doubts.items():
                expected = f"so after each of {len(rows)} refused additions"
                message = f"{MEANINGS[name]}: {listed(doubts)}"
                case.expect(name, not doubts, expected, listed(doubts) or "so after each", message)
            if case.guest.machine.process.poll() is not None:
                return
            wait_workers_ended(case.guest.machine.pid, kept=workers)
            left = len(vhost_workers(case.guest.machine.pid)) - workers
            case.expect("workers-as-before", not left, "no vhost worker left", left, f"{left} vhost workers are left")
            if update_guest(case, "afterwards"):
                expect_answers(case, "afterwards", netdevs)
                expect_no_worse_with_cpr(case, programs, len(rows))


def expect_no_worse_with_cpr(case: MeasuredCase, programs: Programs, first: int) -> None:
    """What QEMU itself leaves behind when a helper misbehaves, it leaves without ``cpr=on`` too: not the series' doing.

    The last thing that is done to a QEMU: one of its own descriptors may be closed by it.
    """
    refuser = Refuser(case.guest.machine)
    left: dict[bool, set[str]] = {False: set(), True: set()}
    for row in attempts(helper_failures(programs), first):
        refuser.attempt(row)
        if found := refuser.doubts["descriptors-as-before"]:
            left[row.cpr].add(row.refusal.name)
            found.clear()
    only = sorted(left[True] - left[False])
    case.expect(
        "bridge-helper-failure",
        not only,
        "a bridge helper that fails leaves nothing that it does not leave with cpr=off",
        f"with cpr=off, descriptors changed after {listed(sorted(left[False])) or 'none'}",
        f"with cpr=on only, descriptors changed after {listed(only)}",
    )
