"""Makes additions that QEMU has to refuse, and looks at what each leaves behind: descriptors, the id, CPR state."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import cast

from cprlib.errors import QemuFailed, QmpRefused
from cprlib.linux.descriptors import Descriptor, DescriptorTable, read_table
from cprlib.linux.tap import open_tap
from cprlib.qemu.machine import Machine
from cprlib.testing.measured_case import MeasuredCase
from netdev_refusals import File, NetdevAttempt

NO_REASON = "could not be initialized"  # net_client_init1() (net/net.c), for a netdev that has set no error
MEANINGS = {  # of a problem, by the name of its check
    "each-is-refused": "QEMU accepted, or refused for another reason, what it has to refuse",
    "descriptors-as-before": "a refused netdev_add changed QEMU's descriptors",
    "id-is-free": "a refused netdev_add left its netdev",
    "descriptors-as-before-when-removed": "a netdev with cpr=on left descriptors when it was removed",
}


class RefusalTester:
    """Makes the attempts on one QEMU, which has to refuse them.

    :ivar problems: by the name of their check.
    :ivar accepted: names of the attempts that QEMU accepted; these are also among the problems.
    """

    def __init__(self, machine: Machine) -> None:
        self.problems: dict[str, list[str]] = {name: [] for name in MEANINGS}
        self.accepted: list[str] = []
        self._machine = machine
        self._table = read_table(machine.pid)

    def expect_nothing_left(self, case: MeasuredCase, count: int) -> None:
        """Add the checks of all attempts to a case.

        :param count: of the attempts.
        """
        for name, problems in self.problems.items():
            case.expect_empty(name, problems, f"so after each of {count} refused additions", MEANINGS[name])

    def attempt(self, row: NetdevAttempt) -> None:
        """Make one attempt and compare descriptors; after one with ``cpr=on``, use the id for a netdev that works.

        :raises QemuFailed: QEMU died.
        """
        try:
            self._attempt(row)
        except QemuFailed:
            self.problems["each-is-refused"].append(f"{row.name}: QEMU died")
            raise

    def _attempt(self, row: NetdevAttempt) -> None:
        message = try_netdev_add(self._machine, row)
        if message is None:
            self.accepted.append(row.name)
            self._table = read_table(self._machine.pid)
        if message is None or row.refusal.because not in message:
            self.problems["each-is-refused"].append(f"{row.name}: {message or 'accepted'}")
        if message is None:
            return
        self._look(row, "descriptors-as-before")
        if row.cpr:  # with cpr=off the same code runs, and each attempt costs time
            self._use(row)

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


def try_netdev_add(machine: Machine, row: NetdevAttempt) -> str | None:
    """Make one attempt with the files that it names.

    :returns: QEMU's message; None when it accepted, and the netdev is deleted again.
    """
    for name, kind in row.refusal.files.items():
        number = _open(machine, row, name, kind)
        try:
            machine.qmp.pass_descriptor(name, number)
        finally:
            os.close(number)
    try:
        machine.qmp.execute("netdev_add", row.options())
    except QmpRefused as error:
        return error.happened
    else:
        machine.qmp.execute("netdev_del", {"id": str(row.options()["id"])})
        return None
    finally:
        for name in row.refusal.files:
            with contextlib.suppress(QmpRefused):  # QEMU took it and closes it
                machine.qmp.execute("closefd", {"fdname": name})


def _open(machine: Machine, row: NetdevAttempt, name: str, kind: File) -> int:
    if kind is File.VHOST:
        return os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
    if kind in (File.NULL, File.PATH):  # a path cannot be made non-blocking: open(2), O_PATH
        return os.open("/dev/null", os.O_CLOEXEC | (os.O_PATH if kind is File.PATH else os.O_RDWR))
    queue = kind is File.QUEUE
    interface = row.interface if queue else f"{row.interface}{name}"
    with machine.namespace.entered():
        return open_tap(interface, multi_queue=queue, vnet_hdr=kind is not File.PLAIN)


def takes_path_descriptors(machine: Machine) -> bool:
    """True when QEMU takes a descriptor that cannot be made blocking (open(2), O_PATH).

    QEMU 10.2 and newer break the connection of the monitor instead (io/channel-socket.c,
    qio_channel_handle_fds()), so netdev_add never gets one.
    """
    version = cast("Mapping[str, Mapping[str, int]]", machine.qmp.execute("query-version"))["qemu"]
    return (version["major"], version["minor"]) < (10, 2)


def changes(before: DescriptorTable, after: DescriptorTable) -> tuple[str, ...]:
    """The differences between two tables of one process."""
    old, new = ({row.number: row for row in table.rows} for table in (before, after))
    gone = [f"{_shown(old[number])} was closed" for number in old if number not in new]
    extra = [f"{_shown(new[number])} is left" for number in new if number not in old]
    other = [f"{_shown(old[n])} became {_shown(new[n])}" for n in old if n in new and old[n] != new[n]]
    return (*gone, *extra, *other)


def _shown(row: Descriptor) -> str:
    return f"{row.kind} {row.interface or row.number}"
