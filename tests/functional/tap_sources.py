"""Taps from every source, the programs that some sources need, and two updates of a guest that has them all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.errors import QmpRefused
from cprlib.linux.descriptors import read_table
from cprlib.linux.topology import Topology, disable_ipv6
from cprlib.process import kill_group
from cprlib.qemu.command_line import MEMORY
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import FdSyntax, TapNetdev, TapSource, VhostOption
from cprlib.testing.equivalence import wait_filters_settled
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.faults import faults_named
from cprlib.update.hooks import HoldAnswers, RecordMainChannel
from cprlib.update.live_update import LiveUpdate, UpdateHook

NO_TAP = "TUNGETIFF"  # of a descriptor that is no tap
NO_REASON = "could not be initialized"  # net_client_init1() (net/net.c), for a netdev that has set no error
FAILED_SCRIPT = "network script"  # launch_script(), net/tap.c
SCRIPTS_SHOWN = re.compile(  # net_init_tap_one(), net/tap.c; QEMU cuts long ones
    r"(\S+): index=(\d+),type=tap,ifname=[^,]*,script=([^,\s]*)(?:,downscript=([^,\s]*))?"
)
HELPER = Path(__file__).with_name("bridge_helper.py")


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs that QEMU runs for a tap; each adds a line to a file when it runs.

    :param folder: writable, and not mounted noexec.
    """

    folder: Path

    @classmethod
    def made_in(cls, folder: str | Path) -> Programs:
        """Programs in a new folder below a folder of the test's."""
        programs = Path(folder) / "programs"
        programs.mkdir(exist_ok=True)
        return cls(programs)

    @property
    def record(self) -> Path:
        """The file, with one line for each run: ``up tap3``, ``down tap3``, ``helper tap4``."""
        return self.folder / "programs-run.txt"

    def runs(self) -> tuple[str, ...]:
        """The runs so far."""
        return tuple(self.record.read_text(encoding="utf-8").splitlines()) if self.record.exists() else ()

    def script(self, word: str) -> str:
        """Path of an up or down script, which QEMU runs with the interface's name."""
        path = self.folder / f"{word}-script"
        path.write_text(f'#!/bin/sh\necho {word} "$1" >>{shlex.quote(str(self.record))}\n', encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def forbid_script(self, word: str) -> None:
        """Take the right to execute a script away."""
        (self.folder / f"{word}-script").chmod(0o600)

    def helper(self, interface: str, *options: str) -> str:
        """Command of a bridge helper, to which QEMU adds ``--use-vnet --fd=N --br=NAME``.

        :param options: of the helper: see tests/functional/bridge_helper.py.
        """
        command = [sys.executable, "-I", "-S", str(HELPER), f"--interface={interface}", f"--record={self.record}"]
        return shlex.join([*command, *options])


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


def scripts_shown(machine: Machine) -> tuple[dict[str, str], dict[str, str]]:
    """The up and down scripts that QEMU shows for the taps that it opened, or was to open: ``pair, queue 1``."""
    shown = str(machine.qmp.execute("human-monitor-command", {"command-line": "info network"}))
    up, down = dict[str, str](), dict[str, str]()
    for identifier, queue, *scripts in SCRIPTS_SHOWN.findall(shown):
        up[f"{identifier}, queue {queue}"], down[f"{identifier}, queue {queue}"] = scripts
    return up, down


def expect_scripts_shown(case: MeasuredCase, label: str) -> None:
    """The target has scripts for the first queue only, and the default one where the source has it.

    :param label: of the update.
    """
    machine = case.guest.machine
    up, down = scripts_shown(machine)
    opened = [item for item in machine.settings.netdevs if not (item.tap_passed or item.helper)]
    names = {f"{item.identifier}, queue {queue}" for item in opened for queue in range(item.queues)}
    expected = {
        "up": sorted(f"{item.identifier}, queue 0" for item in opened if item.script != "no"),
        "down": sorted(f"{item.identifier}, queue 0" for item in opened if item.down_script != "no"),
    }
    case.expect_equal(
        f"{label}-scripts-of-first-queue",
        {word: sorted(name for name in names if of.get(name) != "no") for word, of in (("up", up), ("down", down))},
        expected,
        "queues with scripts, as info network shows them",
    )


class PlugUnfit(UpdateHook):
    """Netdevs that do not fit what the source sent are added to the target, each with the right one after it.

    Then the target ends.

    :ivar said: the answers to both, by id.
    """

    expects_failure = plugs_target = True

    def __init__(self, unfit: Sequence[TapNetdev], sent: Sequence[TapNetdev]) -> None:
        self._unfit = unfit
        self._sent = {netdev.identifier: netdev for netdev in sent}
        self.said: dict[str, tuple[str, str]] = {}

    def after_migrate(self, update: LiveUpdate) -> None:
        """Add them one after the other."""
        update.target.wait_ready()
        for netdev in self._unfit:
            sent, unfit = self._sent[netdev.identifier], self._plug(update.target, netdev)
            self._fill_gaps(update.target, sent)
            self.said[netdev.identifier] = unfit, self._plug(update.target, sent)
        self.said[MEMORY] = self._plug(update.target, TapNetdev(MEMORY, "memory0", cpr=True)), ""
        kill_group(update.target.process)

    @staticmethod
    def _fill_gaps(target: Machine, sent: TapNetdev) -> None:
        """Pass as many files as were sent: they get the numbers that the target has closed, and must stay open."""
        with open(os.devnull, "rb") as file:
            for number in range(sent.descriptors):
                target.qmp.pass_descriptor(f"{sent.identifier}-{number}", file.fileno())

    def _plug(self, target: Machine, netdev: TapNetdev) -> str:
        """What the target does with a netdev; what it closes is compared with what was sent under this id."""
        before = len(read_table(target.pid).rows)
        try:
            target.plug(netdev)
        except QmpRefused as error:
            closed = before - len(read_table(target.pid).rows)
            sent = self._sent[netdev.identifier].descriptors if netdev.identifier in self._sent else 1
            other = f"vhost={'off' if netdev.vhost else 'on'}"
            refused = f"refused as {other}" if other in error.happened else "refused"
            reason = " without a reason" if NO_REASON in error.happened else ""
            reason += " as a descriptor of another kind" if NO_TAP in error.happened else ""
            stale = " for a descriptor that it had closed" if os.strerror(errno.EBADF) in error.happened else ""
            return f"{refused}{reason}{stale}, {'all' if closed == sent else closed} closed"
        return "accepted"


def expect_unfit_netdevs_refused(case: MeasuredCase) -> None:
    """A target refuses a netdev that is not what was sent under its id, by its own options, and closes what was sent.

    With each syntax of a tap, vhost is off where the source has it on, and the other way round. A netdev without
    ``cpr=on``, whose tap the source has, takes nothing of what was sent: the right one is accepted after it. Nor does
    one under the id of the guest's memory.
    """
    source = case.guest.machine
    chosen = ("onefd", "fds", "helper", "scripts")
    sent = [replace(item, fd_syntax=FdSyntax.MINUS_ONE) for item in source.settings.netdevs]
    unfit = [replace(item, vhost=not item.vhost, vhost_passed=False) for item in sent if item.identifier in chosen]
    # as many descriptors as were sent, of other kinds
    unfit += [replace(item, queues=2 * item.queues, vhost=False) for item in sent if item.identifier == "net0"]
    unfit += [replace(item, queues=1, vhost=True) for item in sent if item.identifier == "pair"]
    own = [replace(item, cpr=False) for item in sent if item.identifier == "ifname-vhostfd"]
    hook = PlugUnfit([*unfit, *own], sent)
    with contextlib.ExitStack() as stack:
        case.guest.plan_update([hook], stack=stack, target_name="target-unfit").begin()
        source.wait_status("running")
    expected = {item.identifier: ("refused, all closed", "refused, 0 closed") for item in unfit}
    expected |= {item.identifier: ("refused, 0 closed", "accepted") for item in own}
    expected |= {MEMORY: ("refused, 0 closed", "")}
    case.expect_equal("unfit-netdevs-are-refused", hook.said, expected, "a target took another netdev than was sent")
    case.expect_answers("after-unfit-netdevs")


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
    _, down = scripts_shown(machine)
    default = down.get("default-script, queue 0", "")
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
    with case.guest.topology.switch.entered():
        interfaces = {name for _, name in socket.if_nameindex()}
    case.expect_empty(
        "unnamed-taps-go",
        [item for item in unnamed if item in interfaces],
        "a tap that QEMU made ends with the last QEMU that has it open",
        "no QEMU has it open, and it is still there: a target made it persistent",
    )
