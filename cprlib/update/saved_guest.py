"""The state of a guest without an update: saved to a file and restored from it, or read as an update would send it."""

from __future__ import annotations

from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, QemuFailed
from cprlib.qemu.command_line import MigrationChannels, file_channel
from cprlib.qemu.machine import Machine
from cprlib.update.live_update import MIGRATE_S
from cprlib.update.mechanism import Mechanism, Mode
from cprlib.update.outcome import wait_migration
from cprlib.update.proxy import ChannelProxy

SAVE_S = RESTORE_S = 60.0
SEND_S = 30.0
POLL_S = 0.01
ROUNDS = "announce-rounds"


def save_guest(machine: Machine, path: Path) -> None:
    """Stop a guest and write its state to a file.

    :raises QemuFailed, DeadlineExceeded: QEMU died, refused or did not end.
    """
    machine.qmp.execute("stop")
    machine.qmp.execute("migrate", {"channels": [file_channel(path)]})
    wait_migration(machine, "completed", seconds=SAVE_S)


def restore_guest(machine: Machine, path: Path) -> None:
    """Load the state of a guest into a QEMU that waits for it (``-incoming defer``), and let the guest run.

    It is announced once, so that its switch knows it. Without a round, virtio_net_post_load_device() frees a timer that
    virtio_net_reset() needs (docs/findings.md).

    :raises QemuFailed, DeadlineExceeded: QEMU died, refused or did not end.
    """
    qmp = machine.qmp
    rounds = qmp.execute("query-migrate-parameters")[ROUNDS]
    qmp.execute("migrate-set-parameters", {ROUNDS: 1})
    qmp.execute("migrate-incoming", {"channels": [file_channel(path)]})

    def loaded() -> str | None:
        machine.check_alive("restore the guest")
        status = machine.status()
        return None if status == "inmigrate" else status

    if (status := Deadline(RESTORE_S, "the guest to be restored", Awaited.QEMU).poll(loaded, POLL_S)) != "paused":
        raise QemuFailed("restore the guest", f"it is {status} then, not paused", details=machine.messages)
    qmp.execute("migrate-set-parameters", {ROUNDS: rounds})
    qmp.execute("cont")


def save_device_state(machine: Machine, mechanism: Mechanism) -> bytes:
    """Let a guest's QEMU send its state as for an update, without a target.

    The guest is stopped afterwards and its QEMU has given the NIC's backends up: this is the end of a case.

    :returns: the stream of the main channel, for :func:`cprlib.qemu.vmstate.device_state`.
    :raises QemuFailed, QmpRefused: QEMU died or refused.
    :raises DeadlineExceeded: it has not sent everything.
    """
    namespace, qmp = machine.namespace, machine.qmp
    deadline = Deadline(SEND_S, "the guest's QEMU to send its state", Awaited.QEMU)
    with ChannelProxy(namespace) as cpr, ChannelProxy(namespace) as main:
        parameters = mechanism.handling.parameters(machine.settings.netdevs[0])
        qmp.execute("migrate-set-parameters", {"mode": Mode.CPR_TRANSFER, **parameters})
        channels = MigrationChannels(cpr.name, main.name)
        qmp.execute("migrate", {"channels": channels.descriptions()}, seconds=MIGRATE_S)
        cpr.wait_held(deadline)
        cpr.cut()  # the source sends the rest when a target closes this channel
        main.wait_held(deadline)
        return b"".join(message.data for message in main.messages)
