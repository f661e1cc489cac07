"""The device state of a guest, as its next update would send it: saved without a target."""

from __future__ import annotations

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.qemu.command_line import MigrationChannels
from cprlib.update.live_update import MIGRATE_S
from cprlib.update.mechanism import Mode
from cprlib.update.proxy import ChannelProxy
from cprlib.update.running_guest import RunningGuest

SAVED_S = 30.0


def save_device_state(guest: RunningGuest) -> bytes:
    """Let a guest's QEMU send its state as for an update, without a target.

    The guest is stopped afterwards and its QEMU has given the NIC's backends up: this is the end of a case.

    :returns: the stream of the main channel, for :func:`cprlib.qemu.vmstate.device_state`.
    :raises QemuFailed, QmpRefused: QEMU died or refused.
    :raises DeadlineExceeded: it has not sent everything.
    """
    switch, qmp = guest.topology.switch, guest.machine.qmp
    deadline = Deadline(SAVED_S, "the guest's QEMU to send its state", Awaited.QEMU)
    with ChannelProxy(switch, "", None) as cpr, ChannelProxy(switch, "", None) as main:
        parameters = guest.mechanism.handling.parameters(guest.machine.settings.netdevs[0])
        qmp.execute("migrate-set-parameters", {"mode": Mode.CPR_TRANSFER, **parameters})
        channels = MigrationChannels(cpr.name, main.name)
        qmp.execute("migrate", {"channels": channels.descriptions()}, seconds=MIGRATE_S)
        cpr.wait_held(deadline)
        cpr.cut()  # the source sends the rest when a target closes this channel
        main.wait_held(deadline)
        return b"".join(message.data for message in main.messages)
