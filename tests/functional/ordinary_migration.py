"""An ordinary migration on one host, with descriptors that a manager passes: the control of an update with CPR."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, InstrumentError, UpdateFailed
from cprlib.linux.descriptors import read_table
from cprlib.linux.libc import duplicate_descriptor
from cprlib.qemu.channels import MigrationChannels
from cprlib.qemu.machine import Machine, start_machine
from cprlib.qemu.netdev import PassedFiles
from cprlib.update.outcome import FAILED_STATES
from cprlib.update.running_guest import RunningGuest


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """Flags of the tap descriptors, by step, as ``O_NONBLOCK`` set or not, one for each queue.

    :param before: of the source before the migration.
    :param source, target: of both QEMUs when the guest runs in the target.
    """

    before: tuple[bool, ...]
    source: tuple[bool, ...]
    target: tuple[bool, ...]


@contextlib.contextmanager
def copied_taps(machine: Machine) -> Iterator[PassedFiles]:
    """The tap descriptors of a QEMU, as a manager has them that kept those it has passed; closed when the body ends.

    :raises InstrumentError: the kernel refuses.
    """
    with contextlib.ExitStack() as stack:
        copies = []
        for row in read_table(machine.pid).of_kind("tap"):
            try:
                copies.append(duplicate_descriptor(machine.pid, row.number))
            except OSError as error:
                raise InstrumentError("copy a tap descriptor of QEMU", str(error)) from error
            stack.callback(os.close, copies[-1])
        yield PassedFiles(tuple(copies))


def nonblocking_taps(machine: Machine) -> tuple[bool, ...]:
    """Whether O_NONBLOCK is set, for each tap descriptor."""
    return tuple(row.nonblocking for row in read_table(machine.pid).of_kind("tap"))


def migrate_ordinarily(guest: RunningGuest) -> MigrationResult:
    """Migrate a guest with one NIC in mode ``normal`` to a second QEMU, which gets the same taps by getfd.

    :raises UpdateFailed: the migration failed.
    """
    source, channels = guest.machine, MigrationChannels.fresh()
    before = nonblocking_taps(source)
    settings = replace(source.settings, plugged=True, extra=(*source.settings.extra, "-incoming", "defer"))
    target = guest.stack.enter_context(start_machine("target", settings, guest.folder, guest.topology.switch))
    with copied_taps(source) as files:
        target.plug(settings.netdevs[0], settings.nics[0], files)
    main = {"channels": channels.descriptions()[:1]}
    target.qmp.execute("migrate-incoming", main)
    source.qmp.execute("migrate", main)
    _wait_completed(source)
    target.qmp.execute("cont")
    result = MigrationResult(before, nonblocking_taps(source), nonblocking_taps(target))
    source.quit()
    guest.machine = target
    guest.agent.use(target.agent)
    return result


def _wait_completed(source: Machine) -> None:
    def outcome() -> bool | None:
        answer = source.qmp.execute("query-migrate")
        status = str(answer.get("status", "none"))
        if status in FAILED_STATES:
            reason = str(answer.get("error-desc") or status)
            raise UpdateFailed("migrate the guest", reason, details=source.messages)
        return True if status == "completed" else None

    Deadline(60, "the migration to complete", Awaited.QEMU).poll(outcome, 0.05)
