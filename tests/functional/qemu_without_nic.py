"""A further QEMU, beside that of the case's guest, and how its update is started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from cprlib.errors import QmpRefused
from cprlib.qemu.command_line import MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.qemu.start import start_machine
from cprlib.testing.measured_case import MeasuredCase


@contextlib.contextmanager
def qemu_without_nic(case: MeasuredCase, name: str, *arguments: str) -> Iterator[Machine]:
    """A QEMU like the case's own, but without a NIC and with other further arguments; it serves QMP.

    :param name: in messages and names of files.
    :raises QemuFailed: it ended at once.
    """
    guest = case.guest.machine
    settings = replace(guest.settings, netdevs=(), nics=(), plugged=False, extra=arguments)
    with start_machine(name, settings, case.folder, guest.namespace) as machine:
        machine.wait_ready()
        yield machine


def start_update(source: Machine, channels: MigrationChannels) -> str:
    """Give ``migrate`` in mode cpr-transfer to a source.

    :returns: QEMU's message when it refused; empty when it did not.
    """
    source.qmp.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
    try:
        source.qmp.execute("migrate", {"channels": channels.descriptions()})
    except QmpRefused as error:
        return error.happened
    return ""
