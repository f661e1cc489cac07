"""A refused ``netdev_add`` leaves nothing behind: no descriptor, no worker, no netdev, nothing that CPR would send."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from cprlib.errors import QemuFailed, QmpRefused
from cprlib.evidence.records import Role
from cprlib.linux.descriptors import read_table
from cprlib.linux.procfs import vhost_workers, wait_workers_ended
from cprlib.linux.supervised_calls import CLOSE, SupervisedCalls, SystemCall
from cprlib.qemu.command_line import MEMORY
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.words import listed
from netdev_refusals import NO_VHOST, File, attempts, helper_failures, refusals
from qemu_without_nic import qemu_without_nic
from refusal_tester import MEANINGS, NO_REASON, RefusalTester, changes, takes_path_descriptors
from tap_programs import Programs

SCRIPTED = "scripted0"


class NetdevCleanup(LiveUpdateTest):
    """Mechanism ``cpr``; many refused additions to one running guest."""

    def test_refused_netdev_add_leaves_nothing(self) -> None:
        """A refused ``netdev_add`` leaves QEMU's descriptors as before, the id free, and nothing saved.

        All invalid combinations of tap options (netdev_refusals.py), with vhost and cpr off and on. After each attempt
        the descriptor table is compared row by row, and the id is used for a netdev that works. No descriptor is
        closed twice: the number may be another file by then. A netdev under the id of the guest's memory, refused or
        added and deleted again, leaves the memory's descriptor saved. A later update sends the descriptors of the
        guest's own memory and NICs only. Patch 5 (tap: common return label).

        :avocado: tags=patch:tap-cleanup,patch:5,patch:delete-all-fds,patch:4,mechanism:cpr,vhost:on,queues:1
        """
        netdevs = [TapNetdev(vhost=True), TapNetdev("other", "tap1")]
        programs = Programs.made_in(self.outputdir)
        with (
            SupervisedCalls((SystemCall(CLOSE),), record=True) as calls,
            self.given_guest(GuestSpec(netdevs=tuple(netdevs), role=Role.CHECKS)) as case,
            case.qemu_step(),
        ):
            case.guest.topology.add_tap("tap2", queues=1)
            tester = RefusalTester(case.guest.machine)
            workers = len(vhost_workers(case.guest.machine.pid))
            rows = attempts(refusals(programs))
            if not takes_path_descriptors(case.guest.machine):
                case.note("descriptors that are a path", "not tried: this QEMU breaks the monitor's connection then")
                rows = tuple(row for row in rows if File.PATH not in row.refusal.files.values())
            with case.expect_survival("survives-refusals"):
                for row in rows:
                    tester.attempt(row)
            tester.expect_nothing_left(case, len(rows))
            if case.guest.machine.process.poll() is not None:
                return
            wait_workers_ended(case.guest.machine.pid, kept=workers)
            left = len(vhost_workers(case.guest.machine.pid))
            case.expect_equal("workers-as-before", left, workers, "vhost workers are left")
            use_id_of_memory(case)
            case.live_update(label="afterwards", target=replace(case.guest.machine.settings, prefix=calls.prefix))
            case.expect_answers("afterwards")
            expect_nothing_closed_twice(case, calls, programs, len(rows))
            expect_down_script(case, programs)
            expect_no_worse_with_cpr(case, programs, len(rows))
            expect_refused_with_hub(case)
            expect_bridge_leaves_nothing(case, programs)


def use_id_of_memory(case: MeasuredCase) -> None:
    """Add netdevs under the id of the guest's memory, whose descriptor CPR saves under its id too; none stays.

    A QEMU that drops the descriptor makes new memory in the target of the next update.
    """
    qmp, said = case.guest.machine.qmp, list[str]()
    for interface in ("br0", "memory0"):  # a bridge is refused
        try:
            options = {"type": "tap", "id": MEMORY, "ifname": interface, "script": "no", "downscript": "no"}
            qmp.execute("netdev_add", {**options, "cpr": True})
            qmp.execute("netdev_del", {"id": MEMORY})
        except QmpRefused as error:
            said.append(error.happened)
    without = [words for words in said if NO_REASON in words]
    case.expect_empty("id-of-memory-is-refused-with-a-reason", without, "the reason, where it is refused", "no reason")


def expect_nothing_closed_twice(case: MeasuredCase, calls: SupervisedCalls, programs: Programs, first: int) -> None:
    """Netdevs of each kind are refused when they have their taps; QEMU closes each descriptor once.

    :param calls: have recorded close(2) of this QEMU. :param first: number of the first attempt (:func:`attempts`).
    """
    tester, rows = RefusalTester(case.guest.machine), [row for row in refusals(programs) if row.because == NO_VHOST]
    earlier = len(calls.made)
    for row in attempts(rows, first):
        tester.attempt(row)
    closed, twice, pid = set[int](), list[int](), case.guest.machine.pid
    made = [call for call in calls.made if call.pid == pid]
    for call in made:
        number = call.arguments[0]
        if call.descriptor_open:
            closed.add(number)
        elif number in closed:
            twice.append(number)
    name, expected = "nothing-closed-twice", f"no descriptor is closed twice in {len(made)} calls of close(2)"
    if any(call.pid == pid for call in calls.made[earlier:]):
        case.expect_empty(name, twice, expected, "QEMU closed descriptors twice")
    else:
        case.inconclusive(name, expected, "no call of close(2) was recorded")


def expect_down_script(case: MeasuredCase, programs: Programs) -> None:
    """A netdev whose up script has run is refused, since its vhostfd= is no vhost device: its down script runs."""
    qmp, scripts = case.guest.machine.qmp, {"script": programs.script("up"), "downscript": programs.script("down")}
    with open("/dev/null", "r+b") as null:
        qmp.pass_descriptor("no-vhost", null.fileno())
    options = {"type": "tap", "id": "refused", "ifname": SCRIPTED, "vhost": True, "vhostfd": "no-vhost", "cpr": True}
    with contextlib.suppress(QmpRefused):
        qmp.execute("netdev_add", options | scripts)
    ran = [line for line in programs.runs() if line.endswith(SCRIPTED)]
    expected = [f"up {SCRIPTED}", f"down {SCRIPTED}"]
    case.expect_equal("scripts-of-refused", ran, expected, "scripts of a netdev that was refused when it had its tap")


def expect_no_worse_with_cpr(case: MeasuredCase, programs: Programs, first: int) -> None:
    """After a failed helper, ``cpr=on`` leaves nothing that ``cpr=off`` does not leave: the rest is not the series'.

    Do this last: QEMU may close one of its own descriptors.
    """
    tester = RefusalTester(case.guest.machine)
    left: dict[bool, set[str]] = {False: set(), True: set()}
    for row in attempts(helper_failures(programs), first):
        tester.attempt(row)
        if found := tester.problems["descriptors-as-before"]:
            left[row.cpr].add(row.refusal.name)
            found.clear()
    case.expect_empty(
        "helper-failure-is-refused",
        tester.accepted,
        "QEMU refuses a netdev whose helper failed",
        "QEMU accepted a netdev whose helper failed",
    )
    names, expected = tester.problems["id-is-free"], "a netdev of the same id can be added"
    case.expect_empty("helper-failure-frees-id", names, expected, MEANINGS["id-is-free"])
    only = sorted(left[True] - left[False])
    case.expect_empty(
        "bridge-helper-failure",
        only,
        f"with cpr=on, descriptors change only where they do with cpr=off: {listed(sorted(left[False])) or 'nowhere'}",
        "with cpr=on only, descriptors changed after",
    )


def expect_refused_with_hub(case: MeasuredCase) -> None:
    """A QEMU whose tap is on a hub (``-net``), which cannot be updated, is refused with the reason."""
    said = dict[str, str]()
    because = "cannot be used with hubs"
    for option in ("cpr=on", "queues=2"):
        arguments = ("-net", f"tap,ifname=hub0,script=no,downscript=no,{option}")
        try:
            with qemu_without_nic(case, "with-hub", *arguments):
                said[option] = "accepted"
        except QemuFailed as error:
            said[option] = because if because in error.happened else error.happened
    expected = dict.fromkeys(said, because)
    case.expect_equal("refused-with-hub", said, expected, "a tap on a hub was not refused with the reason")


def expect_bridge_leaves_nothing(case: MeasuredCase, programs: Programs) -> None:
    """A netdev of type bridge, which opens its tap by the same code, takes one tap and closes it."""
    machine = case.guest.machine
    before = read_table(machine.pid)
    helper = programs.helper("bridged")
    machine.qmp.execute("netdev_add", {"type": "bridge", "id": "bridged", "br": "br0", "helper": helper})
    added = changes(before, read_table(machine.pid))
    machine.qmp.execute("netdev_del", {"id": "bridged"})
    left = changes(before, read_table(machine.pid))
    case.expect_equal("bridge-leaves-nothing", (added, left), (("tap bridged is left",), ()), "added, then left")
