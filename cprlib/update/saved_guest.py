"""Save the state of a guest to a file, and restore it in another QEMU with the same command line."""

from __future__ import annotations

from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, QemuFailed
from cprlib.qemu.machine import Machine
from cprlib.update.outcome import FAILED_STATES, migration_status

SAVE_S = RESTORE_S = 60.0
POLL_S = 0.01
ROUNDS = "announce-rounds"


def save_guest(machine: Machine, path: Path) -> None:
    """Stop a guest and write its state to a file.

    :raises QemuFailed, DeadlineExceeded: QEMU died, refused or did not end.
    """
    machine.qmp.execute("stop")
    machine.qmp.execute("migrate", {"channels": [_file(path)]})

    def saved() -> bool | None:
        status, reason = migration_status(machine)
        if status in FAILED_STATES:
            raise QemuFailed("save the guest", reason or f"status {status}", details=machine.messages)
        return True if status == "completed" else None

    Deadline(SAVE_S, "the guest to be saved", Awaited.QEMU).poll(saved, POLL_S)


def restore_guest(machine: Machine, path: Path) -> None:
    """Load the state of a guest into a QEMU that waits for it (``-incoming defer``), and let the guest run.

    Neither QEMU nor the guest announces it: its switch has never seen it.

    :raises QemuFailed, DeadlineExceeded: QEMU died, refused or did not end.
    """
    qmp = machine.qmp
    rounds = qmp.execute("query-migrate-parameters")[ROUNDS]
    qmp.execute("migrate-set-parameters", {ROUNDS: 0})
    qmp.execute("migrate-incoming", {"channels": [_file(path)]})

    def loaded() -> str | None:
        machine.check_alive("restore the guest")
        status = machine.status()
        return None if status == "inmigrate" else status

    if (status := Deadline(RESTORE_S, "the guest to be restored", Awaited.QEMU).poll(loaded, POLL_S)) != "paused":
        raise QemuFailed("restore the guest", f"it is {status} then, not paused", details=machine.messages)
    qmp.execute("migrate-set-parameters", {ROUNDS: rounds})
    qmp.execute("cont")


def _file(path: Path) -> dict[str, object]:
    """A migration channel (QAPI MigrationChannel) to a file."""
    return {"channel-type": "main", "addr": {"transport": "file", "filename": str(path), "offset": 0}}
