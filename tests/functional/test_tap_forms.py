"""Every way to make a tap crosses an update: by name, with descriptors of a manager, with a helper's."""

from __future__ import annotations

from dataclasses import replace

from cprlib.qemu.netdev import Spelling, Way
from fixtures.measured_case import MeasuredCase
from fixtures.netdev_forms import Programs, attach_unnamed, tap_forms
from fixtures.netdev_test import NetdevTest, expect_answers, unanswered, update_guest


class TapForms(NetdevTest):
    """Mechanism ``cpr``; several NICs in one guest, each made in its own way."""

    def test_every_way_to_make_a_tap_crosses_on_the_command_line(self) -> None:
        """Every way to make a tap crosses an update on the command line: the same files, no program run again.

        ``ifname`` (1 and 4 queues, with ``vhostfd``), ``fd``, ``fds``, ``vhostfd``, ``vhostfds``, ``helper``, and a
        tap that the kernel names. Two updates: one in which the target is given ``fd=-1`` and the like, one in which
        it is not. The up script and the helper run once, the down script when the last target ends.
        Patch 6 (tap: cpr support).

        :avocado: tags=patch:tap-cpr,patch:6,mechanism:cpr,vhost:on,queues:4
        """
        programs = self.programs
        with self.given_netdevs(tap_forms(programs)) as case:
            cross_twice(case, programs, plugged=False)


def cross_twice(case: MeasuredCase, programs: Programs, *, plugged: bool) -> None:
    """Two updates of a guest with every form of tap, with both spellings on the target."""
    machine = case.guest.machine
    netdevs = machine.settings.netdevs
    attach_unnamed(case.guest.topology, machine, netdevs)
    started = programs.runs()
    if silent := unanswered(case, netdevs):
        case.unclear("answers-before", "round trips over every NIC before the update", f"none over {', '.join(silent)}")
        return
    for label, spelling in (("minus-one", Spelling.MINUS_ONE), ("left-out", Spelling.LEFT_OUT)):
        target = tuple(
            replace(item, spelling=spelling) if item.way is not Way.INTERFACE else item
            for item in case.guest.machine.settings.netdevs
        )
        settings = replace(case.guest.machine.settings, netdevs=target, plugged=plugged)
        if update_guest(case, label, settings) is None:
            return
        expect_answers(case, label, netdevs)
    expect_programs(case, programs, started)


def expect_programs(case: MeasuredCase, programs: Programs, started: tuple[str, ...]) -> None:
    """The up script and the helper have run once, the down script when the netdev goes, not when a source quits."""
    case.expect(
        "programs-run-once",
        programs.runs() == started and sorted(started) == ["helper tap7", "up tap2"],
        "up script and helper run by the first source only; down script not run by sources that quit",
        ", ".join(programs.runs()) or "none",
        f"programs run after two updates: {', '.join(programs.runs())}",
    )
    before = programs.runs()
    case.guest.machine.quit()
    ran = programs.runs()[len(before) :]
    case.expect(
        "down-script-in-the-end",
        ran == ("down tap2",),
        "the down script runs when the last target ends",
        ", ".join(ran) or "none",
        f"when the last target ended, ran: {', '.join(ran) or 'nothing'}",
    )
