"""A refused ``netdev_add`` leaves nothing behind: no descriptor, no worker, no netdev, nothing that CPR would send."""

from __future__ import annotations

import contextlib
import os

from cprlib.errors import QemuFailed, QmpRefused
from cprlib.evidence.records import Role
from cprlib.linux.descriptors import Descriptor, DescriptorTable, read_table
from cprlib.linux.procfs import vhost_workers, wait_workers_ended
from cprlib.linux.tap import open_tap
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.checks import listed
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.netdev_checks import expect_answers, update_guest
from netdev_refusals import File, NetdevAttempt, attempts, helper_failures, refusals
from tap_sources import Programs

MEANINGS = {  # of a problem, by the name of its check
    "each-is-refused": "QEMU accepted, or refused for another reason, what it has to refuse",
    "descriptors-as-before": "a refused netdev_add changed QEMU's descriptors",
    "id-is-free": "a refused netdev_add left its netdev",
    "descriptors-as-before-when-removed": "a netdev with cpr=on left descriptors when it was removed",
}


class Refuser:
    """Makes the attempts on one QEMU.

    :ivar problems: by the name of their check.
    """

    def __init__(self, machine: Machine) -> None:
        self.problems: dict[str, list[str]] = {name: [] for name in MEANINGS}
        self._machine = machine
        self._table = read_table(machine.pid)

    def attempt(self, row: NetdevAttempt) -> None:
        """Make one attempt, compare descriptors, then use the id for a netdev that works.

        :raises QemuFailed: QEMU died.
        """
        try:
            self._attempt(row)
        except QemuFailed:
            self.problems["each-is-refused"].append(f"{row.name}: QEMU died")
            raise

    def _attempt(self, row: NetdevAttempt) -> None:
        self._pass(row)
        refused = self._add(row)
        for name in row.refusal.files:
            with contextlib.suppress(QmpRefused):  # QEMU took it and closes it
                self._machine.qmp.execute("closefd", {"fdname": name})
        if not refused:
            return
        self._look(row, "descriptors-as-before")
        if row.cpr:  # with cpr=off the same code runs, and each attempt costs time
            self._use(row)

    def _pass(self, row: NetdevAttempt) -> None:
        for name, kind in row.refusal.files.items():
            number = self._open(row, name, kind)
            try:
                self._machine.qmp.pass_descriptor(name, number)
            finally:
                os.close(number)

    def _open(self, row: NetdevAttempt, name: str, kind: File) -> int:
        if kind is File.VHOST:
            return os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
        if kind is File.NULL:
            return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        queue = kind is File.QUEUE
        interface = row.interface if queue else f"{row.interface}{name}"
        with self._machine.namespace.entered():
            return open_tap(interface, multi_queue=queue, vnet_hdr=kind is not File.PLAIN)

    def _add(self, row: NetdevAttempt) -> bool:
        try:
            self._machine.qmp.execute("netdev_add", row.options())
        except QmpRefused as error:
            if row.refusal.because not in error.happened:
                self.problems["each-is-refused"].append(f"{row.name}: {error.happened}")
            return True
        self.problems["each-is-refused"].append(f"{row.name}: taken")
        self._machine.qmp.execute("netdev_del", {"id": str(row.options()["id"])})
        self._table = read_table(self._machine.pid)
        return False

    def _look(self, row: NetdevAttempt, name: str) -> None:
        table = read_table(self._machine.pid)
        found = changes(self._table, table)
        if found:
            self.problems[name].append(f"{row.name}: {', '.join(found)}")
        self._table = table

    def _use(self, row: NetdevAttempt) -> None:
        """Use the id for a netdev that works, and remove that."""
        options = {"type": "tap", "id": row.identifier, "ifname": f"{row.interface}u", "script": "no"}
        options |= {"downscript": "no"}
        try:
            self._machine.qmp.execute("netdev_add", {**options, "cpr": True})
        except QmpRefused as error:
            self.problems["id-is-free"].append(f"{row.name}: {error.happened}")
            return
        self._machine.qmp.execute("netdev_del", {"id": row.identifier})
        self._look(row, "descriptors-as-before-when-removed")


def changes(before: DescriptorTable, after: DescriptorTable) -> tuple[str, ...]:
    """The differences between two tables of one process."""
    old, new = ({row.number: row for row in table.rows} for table in (before, after))
    gone = [f"{_shown(old[number])} was closed" for number in old if number not in new]
    extra = [f"{_shown(new[number])} is left" for number in new if number not in old]
    other = [f"{_shown(old[n])} became {_shown(new[n])}" for n in old if n in new and old[n] != new[n]]
    return (*gone, *extra, *other)


def _shown(row: Descriptor) -> str:
    return f"{row.kind} {row.interface or row.number}"


class NetdevCleanup(LiveUpdateTest):
    """Mechanism ``cpr``; many refused additions to one running guest."""

    def test_refused_netdev_add_leaves_nothing(self) -> None:
        """A refused ``netdev_add`` leaves QEMU's descriptors as before, the id free, and nothing saved.

        All invalid combinations of tap options (netdev_refusals.py), with vhost and cpr off and on. After each attempt
        the descriptor table is compared row by row, and the id is used for a netdev that works. A later update sends
        the descriptors of the guest's own NICs only. Patch 5 (tap: common return label).

        :avocado: tags=patch:tap-cleanup,patch:5,patch:delete-all-fds,patch:4,mechanism:cpr,vhost:on,queues:1
        """
        netdevs = [TapNetdev(vhost=True), TapNetdev("other", "tap1")]
        programs = Programs.made_in(self.outputdir)
        with self.given_guest(GuestSpec(netdevs=tuple(netdevs), role=Role.CHECKS)) as case, case.examines_qemu():
            case.guest.topology.add_tap("tap2", queues=1)
            refuser = Refuser(case.guest.machine)
            workers = len(vhost_workers(case.guest.machine.pid))
            rows = attempts(refusals(programs))
            with case.survives("survives-refusals"):
                for row in rows:
                    refuser.attempt(row)
            for name, problems in refuser.problems.items():
                case.expect_empty(name, problems, f"so after each of {len(rows)} refused additions", MEANINGS[name])
            if case.guest.machine.process.poll() is not None:
                return
            wait_workers_ended(case.guest.machine.pid, kept=workers)
            left = len(vhost_workers(case.guest.machine.pid))
            case.expect_equal("workers-as-before", left, workers, "vhost workers are left")
            if update_guest(case, "afterwards"):
                expect_answers(case, "afterwards", netdevs)
                expect_no_worse_with_cpr(case, programs, len(rows))


def expect_no_worse_with_cpr(case: MeasuredCase, programs: Programs, first: int) -> None:
    """After a failed helper, ``cpr=on`` leaves nothing that ``cpr=off`` does not leave: the rest is not the series'.

    Do this last: QEMU may close one of its own descriptors.
    """
    refuser = Refuser(case.guest.machine)
    left: dict[bool, set[str]] = {False: set(), True: set()}
    for row in attempts(helper_failures(programs), first):
        refuser.attempt(row)
        if found := refuser.problems["descriptors-as-before"]:
            left[row.cpr].add(row.refusal.name)
            found.clear()
    only = sorted(left[True] - left[False])
    case.expect_empty(
        "bridge-helper-failure",
        only,
        f"with cpr=on, descriptors change only where they do with cpr=off: {listed(sorted(left[False])) or 'nowhere'}",
        "with cpr=on only, descriptors changed after",
    )
