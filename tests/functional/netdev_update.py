"""Two updates of a guest with every form of tap: what belongs to it on the command line and by hot-plug alike."""

from __future__ import annotations

import socket
from dataclasses import replace

from cprlib.qemu.netdev import FdSyntax, TapSource
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.netdev_checks import expect_answers, silent_nics, update_guest
from cprlib.update.fault_injection import inject_fault
from cprlib.update.faults import faults_named
from tap_sources import Programs, attach_unnamed


def cross_twice(case: MeasuredCase, programs: Programs, *, plugged: bool) -> None:
    """Two updates of a guest with every form of tap, with both spellings on the target."""
    machine = case.guest.machine
    netdevs = machine.settings.netdevs
    unnamed = attach_unnamed(case.guest.topology, machine, netdevs)
    started = programs.runs()
    if silent := silent_nics(case, netdevs):
        case.inconclusive(
            "answers-before", "round trips over every NIC before the update", f"none over {', '.join(silent)}"
        )
        return
    for label, fd_syntax in (("minus-one", FdSyntax.MINUS_ONE), ("left-out", FdSyntax.LEFT_OUT)):
        target = tuple(
            replace(item, fd_syntax=fd_syntax)
            if item.tap_source is not TapSource.INTERFACE and item.down_script == "no"
            else item
            for item in case.guest.machine.settings.netdevs
        )
        settings = replace(case.guest.machine.settings, netdevs=target, plugged=plugged)
        if not update_guest(case, label, settings):
            return
        expect_answers(case, label, netdevs)
    if not plugged:
        expect_nothing_run_by_failed_target(case, programs)
    expect_programs(case, programs, started, unnamed)


def expect_nothing_run_by_failed_target(case: MeasuredCase, programs: Programs) -> None:
    """A target that ends because it cannot load the state leaves the interfaces to the source: no script runs."""
    before = programs.runs()
    result = inject_fault(case.guest, *faults_named("main-garbage"))
    expected = "the target ends with an error, the source runs, no program ran"
    if not result.reached or result.target_exit is None:
        case.inconclusive("failed-target-runs-nothing", expected, result.why or "the target did not end by itself")
        return
    ran = programs.runs()[len(before) :]
    case.expect(
        "failed-target-runs-nothing",
        not ran and result.state_after == "running",
        expected,
        f"exit status {result.target_exit}, the source is {result.state_after}, ran: {', '.join(ran) or 'nothing'}",
        f"a target that failed ran {', '.join(ran) or 'nothing'}; the source is {result.state_after}",
    )


def expect_programs(
    case: MeasuredCase, programs: Programs, started: tuple[str, ...], unnamed: tuple[str, ...] = ()
) -> None:
    """The up script and the helper have run once, the down script when the netdev goes, not when a source quits.

    :param unnamed: taps that the kernel named: their scripts are told the name, and they go with their last QEMU.
    """
    scripted = ("tap2", *unnamed)
    case.expect(
        "programs-run-once",
        programs.runs() == started and sorted(started) == sorted(["helper tap7", *(f"up {item}" for item in scripted)]),
        "up script and helper run by the first source only; down script not run by sources that quit",
        ", ".join(programs.runs()) or "none",
        f"programs run after two updates: {', '.join(programs.runs())}",
    )
    before = programs.runs()
    case.guest.machine.quit()
    ran = programs.runs()[len(before) :]
    case.expect(
        "down-script-in-the-end",
        sorted(ran) == sorted(f"down {item}" for item in scripted),
        f"the down script runs when the last target ends, for {' and '.join(scripted)}",
        ", ".join(ran) or "none",
        f"when the last target ended, ran: {', '.join(ran) or 'nothing'}",
    )
    with case.guest.topology.switch.entered():
        left = [item for item in unnamed if item in {name for _, name in socket.if_nameindex()}]
    case.expect(
        "unnamed-taps-go",
        not left,
        "a tap that QEMU made goes with the last one that has it open",
        f"{', '.join(left)} left" if left else "none left",
        f"nobody has {', '.join(left)} open any more, and it is still there: a target made it persistent",
    )
