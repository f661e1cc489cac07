"""What QEMU allocates for a netdev or for an update, it frees: its heap afterwards, to the byte."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.evidence.records import Role
from cprlib.linux.procfs import is_listening
from cprlib.qemu.command_line import WAIT_FOR_CONT, MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.qemu.start import Start, start_machine
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.outcome import ENDED_STATES, wait_migration
from cprlib.update.plugged_target import plug_target
from cprlib.update.proxy import ChannelProxy
from heap_record import HeapRecord
from netdev_refusals import TOO_MANY_QUEUES, File, attempts, refusals
from qemu_without_nic import start_update
from refusal_tester import try_netdev_add
from tap_programs import Programs

NETDEVS = (1, 11, 21)  # of the updates that complete
BETWEEN_QEMUS = 64  # bytes by which heaps may grow from QEMU to QEMU, twice in a row; up to 88 were seen, once
MEASUREMENTS = 3
UPDATE_S = 20.0


class Memory(LiveUpdateTest):
    """QEMUs without a NIC, which never run a guest: nothing else allocates."""

    def test_operations_free_their_memory(self) -> None:
        """A netdev that is added and deleted, or refused, and an update that fails or completes, leave no memory.

        The heap of a QEMU after it has done something once, twice and three times. Patches 4 to 6.

        :avocado: tags=patch:delete-all-fds,patch:4,patch:tap-cleanup,patch:5,patch:tap-cpr,patch:6
        :avocado: tags=mechanism:cpr,vhost:on,queues:1
        """
        programs = Programs.made_in(self.outputdir)
        with (
            self.given_guest(GuestSpec(role=Role.CHECKS)) as case,
            case.qemu_step(),
            TemporaryDirectory(prefix="cprlib-heap-") as folder,
        ):
            recorded = RecordedQemus(case, Path(folder))
            operations: dict[str, Callable[[Machine], None]] = {
                "netdev-added-and-deleted": add_and_delete,
                "netdev-refused": lambda machine: refuse(machine, programs),
                "update-failed": fail_update,
            }
            for name, operation in operations.items():
                expect_freed(case, name, recorded.sizes_of(name, operation))
            source, target = zip(*(update(recorded, count) for count in NETDEVS), strict=True)
            expect_freed(case, "update-completed-source", source, BETWEEN_QEMUS)
            expect_freed(case, "update-completed-target", target, BETWEEN_QEMUS)


def expect_freed(case: MeasuredCase, name: str, sizes: Sequence[int], allowed: int = 0) -> None:
    """Check that doing something more often leaves no more bytes.

    :param sizes: of the heap in bytes, after less and more of it.
    :param allowed: bytes by which they may differ.
    """
    more = [after - before for before, after in itertools.pairwise(sizes)]
    observed = ", ".join(f"{count} bytes" for count in more)
    expected = f"not more than {allowed} bytes more after each of {len(more)} further times"
    case.expect(name, min(more) <= allowed, expected, observed, f"memory is left after each: {observed}")


@dataclass(frozen=True, slots=True)
class RecordedQemus:
    """Starts QEMUs like the case's own, whose heap is recorded.

    :param folder: of the records.
    """

    case: MeasuredCase
    folder: Path

    @contextlib.contextmanager
    def started(
        self, name: str, netdevs: tuple[TapNetdev, ...] = (), start: Start | MigrationChannels = Start.BOOT
    ) -> Iterator[tuple[Machine, HeapRecord]]:
        """A QEMU whose guest does not run, with these netdevs to be plugged.

        :param name: in messages and names of files.
        """
        guest = self.case.guest.machine
        record = HeapRecord(self.folder / name, guest.settings.qemu.path.name)
        extra = () if netdevs else (WAIT_FOR_CONT,)
        settings = replace(guest.settings, netdevs=netdevs, nics=(), plugged=bool(netdevs), extra=extra)
        settings = replace(settings, prefix=record.prefix)
        with start_machine(name, settings, self.case.folder, guest.namespace, start) as machine:
            yield machine, record

    def sizes_of(self, name: str, operation: Callable[[Machine], None]) -> list[int]:
        """The heap of a QEMU in bytes after it has done something once, twice, three times.

        :param name: the QEMU's.
        """
        sizes = list[int]()
        with self.started(name) as (machine, record):
            machine.wait_ready()
            for _ in range(MEASUREMENTS):
                operation(machine)
                sizes.append(record.bytes_at_rest(machine))
        return sizes


def add_and_delete(machine: Machine) -> None:
    """Netdevs that QEMU opens, and whose descriptors it is passed, with vhost and without."""
    for source, vhost in itertools.product((TapSource.INTERFACE, TapSource.FDS), (False, True)):
        netdev = TapNetdev("added", "added", queues=2, vhost=vhost, cpr=True, tap_source=source)
        machine.plug(netdev)
        machine.remove_netdev(netdev.identifier)


def refuse(machine: Machine, programs: Programs) -> None:
    """Each kind of netdev with ``cpr=on`` that is refused, but for the slow ones: with a helper, or very many queues.

    A descriptor that is a path is left out, too: QEMU 10.2 breaks the monitor's connection then.
    """
    for row in attempts(refusals(programs)):
        slow = "helper" in row.refusal.options or row.refusal.options.get("queues", 1) == TOO_MANY_QUEUES
        if row.cpr and not slow and File.PATH not in row.refusal.files.values():
            try_netdev_add(machine, row)


def fail_update(machine: Machine) -> None:
    """An update of a netdev that fails when the source connects its main channel; it has sent its CPR state."""
    netdev = TapNetdev("kept", "kept", queues=2, cpr=True)
    machine.plug(netdev)
    with ChannelProxy(machine.namespace) as cpr:
        start_update(machine, MigrationChannels(cpr.name, "no-main"))
        cpr.wait_held(Deadline(UPDATE_S, "the CPR state", Awaited.QEMU))
        cpr.cut()
        wait_migration(machine, *ENDED_STATES, seconds=UPDATE_S)
    machine.remove_netdev(netdev.identifier)


def update(recorded: RecordedQemus, count: int) -> tuple[int, int]:
    """Update with a number of netdevs, and delete them; the heaps of source and target in bytes."""
    netdevs = tuple(TapNetdev(f"net{number}", f"moved{number}", queues=2, cpr=True) for number in range(count))
    channels = MigrationChannels.fresh()
    with (
        recorded.started("recorded-source", netdevs) as (source, of_source),
        recorded.started("recorded-target", netdevs, channels) as (target, of_target),
    ):
        source.wait_ready()
        source.plug_all()
        listening = Deadline(UPDATE_S, "the target's CPR channel", Awaited.QEMU)
        listening.poll(lambda: is_listening(target.pid, channels.cpr), 0.01)
        start_update(source, channels)
        target.wait_ready()
        plug_target(target, channels, {}, {})
        for machine in (source, target):
            wait_migration(machine, "completed", seconds=UPDATE_S)
            for netdev in netdevs:
                machine.remove_netdev(netdev.identifier)
        return of_source.bytes_at_rest(source), of_target.bytes_at_rest(target)
