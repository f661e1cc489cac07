"""Taps from every source, and two updates of a guest that has them all."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.linux.descriptors import read_table
from cprlib.linux.topology import Topology, disable_ipv6
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import FdSyntax, TapNetdev, TapSource, VhostOption, device_counts
from cprlib.testing.equivalence import wait_filters_settled
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.faults import faults_named
from cprlib.update.hooks import HoldAnswers, RecordMainChannel
from tap_programs import Programs
from unfit_netdevs import expect_unfit_netdevs_refused

FAILED_SCRIPT = "network script"  # launch_script(), net/tap.c
SCRIPTS_SHOWN = re.compile(  # in HMP only: net_init_tap_one(), net/tap.c; QEMU cuts long ones
    r"(\S+): index=(\d+),type=tap,ifname=[^,]*,script=([^,\s]*)(?:,downscript=([^,\s]*))?"
)


def taps_from_every_source(programs: Programs) -> tuple[TapNetdev, ...]:
    """A netdev for each source of a tap; the first is the guest's first NIC.

    Some ids are a prefix of others: QEMU must compare whole names.
    """
    up, down = programs.script("up"), programs.script("down")
    return (
        TapNetdev(queues=4, vhost=True),
        TapNetdev("many", "tap1", queues=9, vhost=True, vhost_option=VhostOption.FORCE),
        TapNetdev("scripts", "tap2", queues=3, vhost_option=VhostOption.FORCE, script=up, down_script=down),
        TapNetdev("onefd-vhostfd", "tap3", vhost=True, vhost_passed=True, tap_source=TapSource.FD),
        TapNetdev("onefd", "tap4", tap_source=TapSource.FD, vnet_hdr=False),
        TapNetdev("fds", "tap5", queues=2, vhost=True, tap_source=TapSource.FDS),
        TapNetdev(
            *("fds-vhostfds", "tap6"),
            queues=2,
            vhost=True,
            vhost_passed=True,
            vhost_option=VhostOption.DESCRIPTORS,
            tap_source=TapSource.FDS,
        ),
        TapNetdev("helper", "tap7", vhost=True, tap_source=TapSource.HELPER, helper=programs.helper("tap7")),
        TapNetdev("ifname-vhostfd", "tap8", vhost=True, vhost_passed=True),
        TapNetdev("pair", "tap9", queues=2),
        TapNetdev("default-script", "tap10", down_script=None),
        TapNetdev("unnamed", tap_source=TapSource.UNNAMED, script=up, down_script=down),
        TapNetdev("pattern", "numbered", tap_source=TapSource.PATTERN, script=up, down_script=down),
    )


def attach_unnamed(topology: Topology, machine: Machine, netdevs: Sequence[TapNetdev]) -> tuple[str, ...]:
    """Attach the taps that the kernel named to the bridge.

    :returns: their names.
    """
    named = {item.interface for item in netdevs if not item.kernel_names_tap}
    found = {row.interface for row in read_table(machine.pid).of_kind("tap") if row.interface} - named
    for interface in found:
        disable_ipv6(topology.switch, interface)
        topology.attach(interface)
    return tuple(sorted(found))


def update_twice(case: MeasuredCase, programs: Programs, *, plugged: bool) -> None:
    """Update a guest with taps from every source twice, with both syntaxes of descriptors on the target.

    The second target may not execute the up script, which it has no reason to.
    """
    machine = case.guest.machine
    netdevs = machine.settings.netdevs
    unnamed = attach_unnamed(case.guest.topology, machine, netdevs)
    started = programs.runs()
    expect_descriptors_of(case, netdevs)
    if silent := case.silent_nics(netdevs):
        expected = "round trips over every NIC before the update"
        case.inconclusive("answers-before", expected, f"none over {', '.join(silent)}")
        return
    wait_filters_settled(machine)
    if not plugged:
        expect_nothing_run_by_early_quit(case, programs)
    recorded = list[RecordMainChannel]()
    for label, fd_syntax in (("minus-one", FdSyntax.MINUS_ONE), ("left-out", FdSyntax.LEFT_OUT)):
        settings = case.guest.machine.settings
        target = tuple(
            item
            if item.tap_source is TapSource.INTERFACE or item.down_script != "no"
            else replace(item, fd_syntax=fd_syntax)
            for item in settings.netdevs
        )
        recorded.append(RecordMainChannel())
        case.live_update(label=label, target=replace(settings, netdevs=target, plugged=plugged), hooks=recorded[-1:])
        case.expect_answers(label)
        expect_scripts_shown(case, label)
        programs.forbid_script("up")
    case.expect_same_device_state([item.stream for item in recorded])
    gone = ""
    if plugged:
        gone = expect_down_script_runs(case, programs, unnamed)
        expect_unfit_netdevs_refused(case)
    else:
        expect_nothing_run_by_failed_target(case, programs)
        expect_nothing_run_by_paused_target(case, programs)
        case.guest.machine.qmp.execute("stop")  # the scripts run in the end, though an update of a paused guest failed
        case.inject_fault(*faults_named("cancel-fds-received"))
    expect_programs(case, programs, started, unnamed, gone)


def expect_descriptors_of(case: MeasuredCase, netdevs: Sequence[TapNetdev]) -> None:
    """The first source has the descriptors of its netdevs and no others: it uses those that it was passed."""
    found = read_table(case.guest.machine.pid).device_counts
    with case.qemu_step():
        case.expect_equal("descriptors-of-netdevs", found, device_counts(netdevs), "descriptors of the first source")


def scripts_shown(machine: Machine) -> dict[str, dict[str, str]]:
    """The ``up`` and ``down`` scripts that QEMU shows for taps that it opened, or was to open, by ``pair, queue 1``."""
    found = str(machine.qmp.execute("human-monitor-command", {"command-line": "info network"}))
    shown: dict[str, dict[str, str]] = {"up": {}, "down": {}}
    for identifier, queue, up, down in SCRIPTS_SHOWN.findall(found):
        name = f"{identifier}, queue {queue}"
        shown["up"][name], shown["down"][name] = up, down
    return shown


def expect_scripts_shown(case: MeasuredCase, label: str) -> None:
    """The target has scripts for the first queue only, and the default one where the source has it.

    :param label: of the update.
    """
    machine = case.guest.machine
    opened = [item for item in machine.settings.netdevs if not (item.tap_passed or item.helper)]
    names = {f"{item.identifier}, queue {queue}" for item in opened for queue in range(item.queues)}
    expected = {
        "up": sorted(f"{item.identifier}, queue 0" for item in opened if item.script != "no"),
        "down": sorted(f"{item.identifier}, queue 0" for item in opened if item.down_script != "no"),
    }
    case.expect_equal(
        f"{label}-scripts-of-first-queue",
        {
            word: sorted(name for name in names if scripts.get(name) != "no")
            for word, scripts in scripts_shown(machine).items()
        },
        expected,
        "queues with scripts, as info network shows them",
    )


def expect_nothing_run_by_failed_target(case: MeasuredCase, programs: Programs) -> None:
    """A target that ends because it cannot load the state leaves the interfaces to the source: no script runs."""
    before = programs.runs()
    result = case.inject_fault(*faults_named("main-garbage"))
    if not result.reached:
        return
    ended = "still running" if result.target_exit is None else "ended"
    case.expect_equal(
        "failed-target-runs-nothing",
        {"target": ended, "programs": programs.runs()[len(before) :]},
        {"target": "ended", "programs": ()},
        f"after a target that failed with exit status {result.target_exit}",
    )


def expect_nothing_run_by_paused_target(case: MeasuredCase, programs: Programs) -> None:
    """A target that has a paused guest, and ends before it runs it, leaves the interfaces to the source."""
    source, before = case.guest.machine, programs.runs()
    source.qmp.execute("stop")
    with contextlib.ExitStack() as stack:
        update = case.guest.plan_update([], stack=stack, target_name="target-paused")
        refusal = update.begin()
        update.target.wait_status("paused")
        update.target.quit()
    source.wait_status("postmigrate", "paused")  # until its migration is finalized it refuses cont
    source.qmp.execute("cont")
    ran = programs.runs()[len(before) :]
    meaning = f"{refusal or 'the update completed'}, and the target ended: programs that ran meanwhile"
    case.expect_equal("paused-target-runs-nothing", ran, (), meaning)
    case.expect_answers("after-paused-target")


def expect_nothing_run_by_early_quit(case: MeasuredCase, programs: Programs) -> None:
    """A source that quits when the target runs the guest, before it knows that, leaves the interfaces to the target."""
    before = programs.runs()
    result = case.inject_fault(*faults_named("source-quits-unanswered"), hooks=[HoldAnswers()])
    ran = programs.runs()[len(before) :]
    meaning = f"programs that ran when the source quit ({result.not_reached or 'its migration had not completed'})"
    case.expect_equal("source-that-quits-early-runs-nothing", ran, (), meaning)
    case.expect_answers("after-early-quit")


def expect_down_script_runs(case: MeasuredCase, programs: Programs, unnamed: Sequence[str]) -> str:
    """A netdev that is removed from a target, in which no VM was stopped so far, runs its down script.

    :param unnamed: taps that the kernel named.
    :returns: the tap of that netdev.
    """
    machine, before = case.guest.machine, len(programs.runs())
    (netdev,) = (item for item in machine.settings.netdevs if item.tap_source is TapSource.PATTERN)
    (nic,) = (item for item in machine.settings.nics if item.netdev == netdev.identifier)
    (tap,) = (item for item in unnamed if item.startswith(netdev.interface))
    machine.remove_nic(nic.identifier)
    machine.remove_netdev(netdev.identifier)
    meaning = "programs that ran when a target's netdev was removed"
    case.expect_equal("down-script-of-removed-netdev", programs.runs()[before:], (f"down {tap}",), meaning)
    return tap


def expect_programs(
    case: MeasuredCase, programs: Programs, started: tuple[str, ...], unnamed: Sequence[str], gone: str
) -> None:
    """The up script and the helper run once, the down script when the netdev ends and not when a source quits.

    :param unnamed: taps that the kernel named: QEMU passes their names to the scripts, and they end with the last QEMU.
    :param gone: the one whose netdev was removed; empty when none was.
    """
    scripted = ("tap2", *unnamed)
    once = sorted(["helper tap7", *(f"up {item}" for item in scripted)])
    runs = programs.runs()
    case.expect(
        "programs-run-once",
        runs == (*started, *([f"down {gone}"] if gone else [])) and sorted(started) == once,
        f"run by the first source only: {', '.join(once)}",
        ", ".join(runs) or "none",
        f"programs run after two updates: {', '.join(runs)}",
    )
    machine = case.guest.machine
    default = scripts_shown(machine)["down"].get("default-script, queue 0", "")
    machine.quit()
    case.expect_equal(
        "default-down-script",
        sum(FAILED_SCRIPT in line for line in machine.messages.splitlines()),
        0 if Path(default).exists() else 1,
        f"runs of QEMU's default down script that fail ({default or 'none is shown'}): it is for the tap that QEMU "
        "opened, and for none of management's, also where the target's options name no descriptor",
    )
    case.expect_equal(
        "down-script-in-the-end",
        sorted(programs.runs()[len(runs) :]),
        sorted(f"down {item}" for item in scripted if item != gone),
        "when the last target ended, other scripts ran",
    )
    case.expect_empty(
        "scripts-inherit-no-device",
        programs.with_foreign_devices(),
        "a script has the tap open that it is for, and no descriptor of another netdev",
        "scripts inherited descriptors of other netdevs",
    )
    with case.guest.topology.switch.entered():
        interfaces = {name for _, name in socket.if_nameindex()}
    case.expect_empty(
        "unnamed-taps-go",
        [item for item in unnamed if item in interfaces],
        "a tap that QEMU made ends with the last QEMU that has it open",
        "no QEMU has it open, and it is still there: a target made it persistent",
    )
