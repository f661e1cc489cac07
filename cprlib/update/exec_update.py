"""The live update in mode cpr-exec: the source executes the target in its place.

It is one process: process id, QMP connection, the agent's channel and the numbers of descriptors stay, and the device
state waits in a file in memory (QEMU docs/devel/migration/CPR.rst, migration/cpr-exec.c). When exec(2) fails, the guest
runs on in the source; when the target fails, the guest is lost.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, InstrumentError
from cprlib.linux.descriptors import DEVICE_KINDS, DescriptorTable, Pairing, pair_tables
from cprlib.linux.libc import duplicate_descriptor
from cprlib.qemu.command_line import file_channel
from cprlib.qemu.start import successor_of
from cprlib.qemu.wrapper import last_message
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.outcome import FAILED_STATES, announced_statuses, query_migration, view
from cprlib.update.results import ProcessView
from cprlib.update.waits import update_failed

EXECUTED_S = 60.0


class CopiedFds(UpdateHook):
    """Copies of the source's tap and vhost descriptors, so that kcmp(2) can compare them with the target's.

    Not for an update under measured traffic: a copy keeps a tap queue alive, which hides the loss of its descriptor.
    """

    def __init__(self) -> None:
        self.copies: dict[int, int] = {}
        """Our number of each of the source's descriptors."""

    def before_target(self, update: LiveUpdate) -> None:
        """Copy the descriptors; the update closes them.

        :raises InstrumentError: the kernel refuses.
        """
        for row in update.source_before.table.rows:
            if row.kind in DEVICE_KINDS:
                try:
                    self.copies[row.number] = duplicate_descriptor(update.source.pid, row.number)
                except OSError as error:
                    raise InstrumentError(f"copy descriptor {row.number} of QEMU", str(error)) from error

    def pair(self, source: DescriptorTable, target: DescriptorTable) -> tuple[Pairing, ...]:
        """Pair descriptors by open file, then close the copies."""
        originals = {self.copies[row.number]: row for row in source.rows if row.number in self.copies}
        copies = tuple(replace(row, number=number) for number, row in originals.items())
        pairings = pair_tables(DescriptorTable(os.getpid(), copies), target)
        self.close()
        return tuple(replace(item, source=originals[item.source.number]) if item.source else item for item in pairings)

    def close(self) -> None:
        while self.copies:
            os.close(self.copies.popitem()[1])


class ExecuteInstead(UpdateHook):
    """Let the source execute another command than the target's."""

    def __init__(self, *command: str) -> None:
        self._command = command

    def before_target(self, update: LiveUpdate) -> None:
        if isinstance(update, ExecUpdate):
            update.command = self._command


@dataclass(slots=True)
class ExecUpdate(LiveUpdate):
    """An update in mode cpr-exec.

    :param command: what the source executes; the target's command line when None.
    :param state_path: file of the device state.
    """

    command: Sequence[str] | None = None
    state_path: str = field(init=False, default="")
    greetings: int = field(init=False, default=0)

    def _start_target(self) -> None:
        """Prepare the command line of the target, which starts when the device state is saved."""
        file = os.memfd_create("device-state")
        self.stack.callback(os.close, file)
        self.state_path = f"/proc/{os.getpid()}/fd/{file}"
        target = successor_of(self.source, self.target_name, self._settings_of_target(), self.passed)
        target.command = [*target.command, "-incoming", json.dumps(self._channels[0])]
        target.files.command.write_text(shlex.join(target.command) + "\n", encoding="utf-8")
        self.started_target, self.greetings = target, self.source.qmp.greetings

    def _wait_listening(self) -> None:
        """Nothing listens: the target does not exist yet."""

    @property
    def _parameters(self) -> dict[str, object]:
        own = self.mechanism.handling.parameters(self.source.settings.netdevs[0])
        return {**own, "cpr-exec-command": [*(self.target.command if self.command is None else self.command)]}

    @property
    def _channels(self) -> list[dict[str, object]]:
        return [file_channel(self.state_path)]

    def _wait_completed(self) -> None:
        """Wait for the QMP greeting of the target on the connection of the source.

        :raises UpdateFailed: the migration or exec(2) failed, and the guest runs in the source; or the target ended.
        """
        source = self.source

        def executed() -> bool:
            if source.process.poll() is not None:
                said = last_message(self.target.messages) or "it said nothing"
                reason = f"the process ended, and with it the guest: {said}"
                raise update_failed(source, self.target, reason)
            if source.qmp.greetings > self.greetings:
                return True
            if not set(FAILED_STATES).isdisjoint(announced_statuses(source, self.migrate_ns)):
                raise update_failed(source, self.target, query_migration(source).reason)
            return False

        Deadline(EXECUTED_S, "the source to execute the target", Awaited.QEMU).poll(executed, interval=0.01)
        self.target.qmp.negotiate_again()

    def _views(self) -> tuple[ProcessView, ProcessView, tuple[Pairing, ...]]:
        """The target, in whose process nothing of the source is left but its descriptors."""
        before, after = self.source_before, view(self.target)
        pair = self._copied.pair if self._copied else pair_by_position
        return replace(before, workers=()), after, pair(before.table, after.table)

    @property
    def _copied(self) -> CopiedFds | None:
        return next((hook for hook in self.hooks if isinstance(hook, CopiedFds)), None)

    @property
    def _compared(self) -> bool:
        return self._copied is not None

    def _end_source(self) -> int | None:
        return None


def pair_by_position(source: DescriptorTable, target: DescriptorTable) -> tuple[Pairing, ...]:
    """Pair the descriptors of one process before and after: by number, inode and interface."""
    rows = {row.number: row for row in target.rows}
    pairings = []
    for row in source.rows:
        if row.kind in DEVICE_KINDS:
            other = rows.get(row.number)
            same = other is not None and (other.link, other.device, other.inode, other.interface) == (
                *(row.link, row.device, row.inode, row.interface),
            )
            pairings.append(Pairing(row, rows.pop(row.number) if same else None))
    pairings += [Pairing(None, row) for row in rows.values() if row.kind in DEVICE_KINDS]
    return tuple(pairings)
