"""The target whose netdevs and NICs are added by QMP, once it has its CPR state and serves QMP."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, QemuFailed
from cprlib.qemu.command_line import MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.qemu.wrapper import last_message

READY_S = 30.0
FAILURE_S = 0.5  # until the source is asked whether the migration has failed


def wait_served(target: Machine, failure: Callable[[], str]) -> None:
    """Wait until the target serves QMP.

    :param failure: returns why the migration failed, empty otherwise: then the target waits for its CPR state for ever.
    :raises QemuFailed: it ended, or the migration failed.
    :raises DeadlineExceeded: neither, in time.
    """
    deadline = Deadline(READY_S, f"QMP of the {target.name}", Awaited.QEMU)
    while True:
        try:
            return target.wait_ready(FAILURE_S)
        except DeadlineExceeded as error:
            if deadline.expired:
                happened = f"no QMP greeting; its last message: {last_message(target.messages) or 'none'}"
                raise deadline.exceeded(happened, error.advice) from error
        if failed := failure():
            raise QemuFailed("send the CPR state", failed)


def plug_target(
    target: Machine,
    channels: MigrationChannels,
    capabilities: Mapping[str, bool],
    parameters: Mapping[str, object],
) -> None:
    """Add the netdevs and NICs of a target's settings by QMP, and name its main channel.

    :param capabilities, parameters: for its migration, set before.
    :raises QemuFailed: the target refuses something, or dies of it.
    """
    if capabilities:
        target.set_capabilities(capabilities)
    if parameters:
        target.qmp.execute("migrate-set-parameters", parameters)
    target.plug_all()
    name_main_channel(target, channels)


def name_main_channel(target: Machine, channels: MigrationChannels) -> None:
    """Name the main channel to a target that was started with ``-incoming defer``."""
    target.qmp.execute("migrate-incoming", {"channels": channels.descriptions()[:1]})
