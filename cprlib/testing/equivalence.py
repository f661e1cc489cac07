"""The states that an update must not change: what is read of a running guest, and its comparison with a later state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.evidence.equivalence import Snapshot, Values, allowed_differences, compare, side_of, take_snapshot
from cprlib.evidence.records import EquivalenceRecord, StatePair
from cprlib.guest.state import read_guest_state
from cprlib.linux.host_state import read_memory, read_network_state, read_process_state, tap_queue_values
from cprlib.linux.tap import read_tap_queues
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.machine import Machine
from cprlib.qemu.migration_format import MigrationFormat, comparable, load_format, read_format
from cprlib.qemu.nic_state import CTRL_RX
from cprlib.qemu.state import read_objects, read_outlines, read_queries, read_registers
from cprlib.qemu.vmstate import device_state
from cprlib.update.mechanism import Mechanism
from cprlib.update.running_guest import RunningGuest

Reader = Callable[[RunningGuest], Values]
SETTLE_S, LEAST_READINGS = 3.0, 4  # time for a difference to go away, and how often it is read at least
POLL_S, ALL_S, JOIN_S = 0.15, 60.0, 3.0


def _read_queries(guest: RunningGuest) -> Values:
    settings = guest.machine.settings
    queues = max((nic.queues for nic in settings.nics), default=1)
    return read_queries(guest.machine.qmp, queues, vhost=any(netdev.vhost for netdev in settings.netdevs))


def _read_process(guest: RunningGuest) -> Values:
    machine = guest.machine
    return read_process_state(machine.pid, machine.name, machine.files.process_name)


def _read_kernel(guest: RunningGuest) -> Values:
    topology, machine = guest.topology, guest.machine
    taps = [netdev.interface for netdev in machine.settings.netdevs if not netdev.kernel_names_tap]
    network = read_network_state(topology.switch, topology.station, taps)
    return network | tap_queue_values(read_tap_queues(machine.pid))


GUEST_SIDE = "guest"
READERS: Mapping[str, Reader] = {
    GUEST_SIDE: lambda guest: read_guest_state(guest.agent),
    "qmp": _read_queries,
    "hmp": lambda guest: read_outlines(guest.machine.qmp),
    "qom": lambda guest: read_objects(guest.machine.qmp),
    "process": _read_process,
    "kernel": _read_kernel,
    "memory": lambda guest: read_memory(guest.machine.pid),
    "registers": lambda guest: read_registers(guest.machine.qmp),
}
"""The readers of the state, by side."""

FROZEN_SIDES = ("memory", "registers")  # a guest that runs changes them
RUNNING_SIDES = tuple(side for side in READERS if side not in FROZEN_SIDES)
PAUSED_SIDES = tuple(side for side in RUNNING_SIDES if side != GUEST_SIDE)  # a paused guest does not answer
HOST_SIDES = ("process", "kernel")  # read without QEMU's help, in a tenth of the time


def read_state(guest: RunningGuest, sides: Iterable[str] = ()) -> Snapshot:
    """Read the guest, the QEMU that runs it, its process and its host, while no measured traffic flows.

    It takes 70 commands of QMP, which disturb the traffic of a NIC without vhost.

    :param sides: some of :data:`READERS`; :data:`RUNNING_SIDES` when empty.
    :raises QemuFailed, GuestFailed, DeadlineExceeded: QEMU or guest died or hangs.
    """
    chosen = set(sides) or set(RUNNING_SIDES)
    return take_snapshot({side: partial(read, guest) for side, read in READERS.items() if side in chosen})


def read_compared(guest: RunningGuest) -> Snapshot | None:
    """As :func:`read_state`; None for a mechanism that may lose packets, where the target has another NIC."""
    if guest.mechanism.handling.may_lose:
        return None
    if guest.machine.status() != "running":
        return read_state(guest, PAUSED_SIDES)
    if not guest.updates:
        wait_filters_settled(guest.machine)
    return read_state(guest)


def wait_filters_settled(machine: Machine) -> None:
    """Give a guest time to join the groups of its link-local addresses, about a second after boot.

    :raises QemuFailed, DeadlineExceeded: QEMU died or hangs; a guest that never joins is none.
    """
    macs = (nic.mac for nic in machine.settings.nics)
    try:
        _wait_groups(machine, *macs, deadline=Deadline(JOIN_S, "multicast groups to be joined"))
    except DeadlineExceeded as error:
        if error.awaited is not Awaited.HARNESS:
            raise  # QEMU hangs; a guest without IPv6 never joins


def wait_groups_joined(guest: RunningGuest, *macs: str) -> None:
    """Wait until receive filters have the solicited-node groups of MAC addresses (RFC 4291), or the guest stops.

    A NIC with ``ctrl_rx=off`` has no filters.

    :raises DeadlineExceeded: they do not have them.
    """
    if guest.agent.network().nic().agreed_on(CTRL_RX):
        joined = Deadline(10, "the guest to join its multicast groups", Awaited.GUEST)
        _wait_groups(guest.machine, *macs, deadline=joined)


def _wait_groups(machine: Machine, *macs: str, deadline: Deadline) -> None:
    groups = {"33:33:ff" + mac.lower()[8:] for mac in macs}

    def joined() -> bool:
        known = {str(group) for item in machine.qmp.execute("query-rx-filter") for group in item["multicast-table"]}
        return groups <= known or machine.status() != "running"

    deadline.poll(joined, POLL_S)


def compare_state(
    guest: RunningGuest, before: Snapshot, comparison: StatePair, subject: str = "", sides: Iterable[str] = ()
) -> EquivalenceRecord:
    """Compare the state now with an earlier one.

    A difference that goes away within 3 s, as a thread that ends, is none: that side is read again, 3 times or more.

    :param subject: what has happened since, for the report.
    :param sides: some of :data:`READERS`; those of the earlier state when empty.
    :raises QemuFailed, GuestFailed, DeadlineExceeded: QEMU or guest died or hangs.
    """
    allowed = allowed_differences()
    sides = set(sides) or before.sides
    before = before.of_sides(sides)
    states = [read_state(guest, sides)]
    settling = Deadline(SETTLE_S, "differences to settle")

    def settled() -> EquivalenceRecord | None:
        accelerator = guest.machine.settings.accelerator
        record = compare(before, states[-1], comparison, guest.mechanism, allowed, subject, accelerator)
        if not record.differences or (settling.expired and len(states) >= LEAST_READINGS):
            return record
        states.append(states[-1].updated(read_state(guest, {side_of(item.path) for item in record.differences})))
        return None

    return Deadline(ALL_S, "the states to be compared").poll(settled, POLL_S)


def compare_with_release(qemu: QemuBinary, release: Path, mechanism: Mechanism) -> EquivalenceRecord:
    """Compare the format of a QEMU's device state with that of a release.

    :param release: file of the release's format, which is named after it.
    """
    subject = f"the patches on release {release.stem}"
    return compare_formats(load_format(release), read_format(qemu, release.stem), mechanism, subject)


def compare_formats(
    release: MigrationFormat, found: MigrationFormat, mechanism: Mechanism, subject: str
) -> EquivalenceRecord:
    """Compare the format of a release with that of a QEMU that is built from it."""
    before, after = comparable(release, found)
    return compare(Snapshot(before), Snapshot(after), StatePair.RELEASE, mechanism, (), subject)


def compare_device_states(
    guest: RunningGuest, earlier: bytes, later: bytes, comparison: StatePair, subject: str
) -> EquivalenceRecord:
    """Compare the device state of two updates in a row: what the first one's target was sent, it has to send again.

    :param earlier, later: the streams of the main channel.
    :param comparison: DEVICE_STATE when the guest has run between them, else PAUSED.
    :param subject: what happened between them, for the report.
    """

    def read(stream: bytes) -> Snapshot:
        return take_snapshot({"vmstate": lambda: device_state(stream)})

    allowed, accelerator = allowed_differences(), guest.machine.settings.accelerator
    return compare(read(earlier), read(later), comparison, guest.mechanism, allowed, subject, accelerator)
