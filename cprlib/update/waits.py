"""Waits for the steps of an update; each says why a migration failed, in the words of both QEMUs."""

from __future__ import annotations

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, QemuFailed, UpdateFailed
from cprlib.process import tail
from cprlib.qemu.machine import Machine
from cprlib.qemu.qmp import QmpEvent
from cprlib.qemu.wrapper import last_message
from cprlib.update.outcome import FAILED_STATES, query_migration, wait_migration

STOP_S, SEND_S, RUN_S = 30.0, 60.0, 30.0
TRIED = "live-update the guest"


def update_failed(source: Machine, target: Machine, reason: str, tried: str = TRIED) -> UpdateFailed:
    """The error for an update that failed, with the messages of both QEMUs."""
    return UpdateFailed(
        tried,
        reason,
        "see the details for the messages of both QEMUs",
        details=f"source said:\n{tail(source.messages)}\ntarget said:\n{tail(target.messages)}",
        source_said=last_message(source.messages),
        target_said=last_message(target.messages),
    )


def wait_stopped(source: Machine, target: Machine, since_ns: int) -> None:
    """Wait for the source's guest to stop.

    :param since_ns: time of ``migrate``.
    :raises UpdateFailed: the migration failed before that (stock QEMU stops the guest after it sent its CPR state).
    :raises QemuFailed: the source ended.
    """

    def over(event: QmpEvent) -> bool:
        failed = event.data.get("status") in FAILED_STATES
        return event.received_ns >= since_ns and (event.name == "STOP" or failed)

    deadline = Deadline(STOP_S, "the source's guest to stop", Awaited.QEMU)
    try:
        event = source.qmp.wait_event("STOP", "MIGRATION", deadline=deadline, accept=over)
    except QemuFailed as error:
        raise _source_failed(source, target, error) from error
    if event.name != "STOP":
        raise update_failed(source, target, query_migration(source).reason)


def wait_completed(source: Machine, target: Machine) -> None:
    """Wait until the source has sent everything.

    :raises UpdateFailed: the migration failed or was cancelled, or the target ended.
    :raises QemuFailed: the source ended.
    """

    def completed() -> bool:
        if (migration := query_migration(source)).failed:
            raise update_failed(source, target, migration.reason)
        if (status := target.exit_status()) is not None:
            raise update_failed(source, target, target.died(TRIED, status).happened)
        return migration.status == "completed"

    try:
        Deadline(SEND_S, "the migration to complete", Awaited.QEMU).poll(completed, interval=0.02)
    except QemuFailed as error:
        raise _source_failed(source, target, error) from error


def wait_running(source: Machine, target: Machine, *, give_cont: bool) -> None:
    """Wait until the target runs the guest.

    :param give_cont: it waits for ``cont`` when it has loaded the state.
    :raises UpdateFailed: the target is in a state that it does not leave.
    :raises QemuFailed: the target ended.
    """

    def running() -> bool:
        status = target.status()
        if status in ("internal-error", "guest-panicked"):
            raise update_failed(source, target, f"the target is in state {status}")
        return status == "running"

    try:
        target.wait_ready()
        if give_cont:
            deadline = Deadline(RUN_S, "the target to load the state", Awaited.QEMU)
            deadline.poll(lambda: target.status() != "inmigrate", 0.02)
            target.qmp.execute("cont")
        deadline = Deadline(RUN_S, "the target's guest to run", Awaited.QEMU)
        deadline.poll(running, instead=lambda: f"it is {target.status()}")
        wait_migration(target, "completed")
    except QemuFailed:  # its connection broke: its last words say more
        target.check_alive(TRIED, broken=True)
        raise
    target.incoming = False


def _source_failed(source: Machine, target: Machine, error: QemuFailed) -> UpdateFailed:
    """The error for a source that does not answer.

    :raises QemuFailed: it has ended; with its last message.
    """
    source.check_alive(TRIED, broken=True)
    return update_failed(source, target, error.happened)
