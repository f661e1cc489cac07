"""Hooks: code that runs between the steps of a live update, while the update stands still."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.linux.descriptors import Descriptor, read_table
from cprlib.linux.libc import same_open_file
from cprlib.update.events import Step
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.proxy import ChannelProxy, Hold, Message

HOLD_S = 30.0
NAME_LIMIT = 256  # bytes


class PauseAtFdsSent(UpdateHook):
    """Pause when the source has sent its whole CPR state and the target has seen nothing of it.

    :param action: called with the update and the proxy on the CPR channel during the pause.
    """

    waits_for_stop = False  # the guest has stopped already; where it has not, the failed update is the better message

    def __init__(self, action: Callable[[LiveUpdate, ChannelProxy], None]) -> None:
        self._action = action
        self._proxy: ChannelProxy | None = None

    def before_target(self, update: LiveUpdate) -> None:
        self._proxy = update.hold_channel("cpr")

    def after_migrate(self, update: LiveUpdate) -> None:
        """Wait for the CPR state and act; nothing when ``migrate`` was refused.

        :raises DeadlineExceeded: the source has not sent its CPR state.
        """
        proxy, reply = self._proxy, update.migrate_reply
        if proxy is None or reply is None:
            return

        def held_or_refused() -> bool:
            return proxy.held or (reply.done() and reply.result() is not None)

        try:
            Deadline(HOLD_S, "the source to send its CPR state", Awaited.QEMU).poll(held_or_refused)
            if proxy.held:
                update.mark(Step.FDS_HELD)
                self._action(update, proxy)
        finally:
            proxy.release()


class RecordSentFds(PauseAtFdsSent):
    """Read the descriptors of the CPR state on their way; they arrive as they were sent.

    ``sent`` has them in the order of the stream, ``state`` all bytes of it.
    """

    waits_for_stop = True

    def __init__(self) -> None:
        super().__init__(self._read)
        self.sent: tuple[SentFd, ...] = ()
        self.state = b""

    def _read(self, update: LiveUpdate, proxy: ChannelProxy) -> None:
        self.sent = sent_fds(proxy.messages, update.source.pid)
        self.state = b"".join(message.data for message in proxy.messages)


class RecordMainChannel(UpdateHook):
    """Keep the migration stream of an update, which has the state of all devices."""

    def __init__(self) -> None:
        self._proxy: ChannelProxy | None = None

    def before_target(self, update: LiveUpdate) -> None:
        self._proxy = update.hold_channel("main", Hold.WHEN_CONNECTED, record=True)
        self._proxy.release()

    @property
    def stream(self) -> bytes:
        """The bytes that the source has sent so far; all of them once the target runs the guest."""
        return bytes(self._proxy.recorded) if self._proxy else b""


class HoldAnswers(UpdateHook):
    """With a return path, the target's answers do not reach the source, which never learns that the target runs."""

    def before_target(self, update: LiveUpdate) -> None:
        update.capabilities["return-path"] = True
        update.hold_channel("main", Hold.WHEN_CONNECTED, hold_answers=True).release()


@dataclass(frozen=True, slots=True)
class SentFd:
    """One descriptor of the CPR state.

    :param name: netdev or RAM block; empty when the stream has no name before the descriptor.
    :param file: the descriptor in the proxy.
    :param source_numbers: descriptors of the source that are the same open file.
    """

    name: str
    id: int
    file: Descriptor
    source_numbers: tuple[int, ...]

    def __str__(self) -> str:
        what = f"{self.file.kind} {self.file.interface}" if self.file.interface else self.file.kind
        return f"{self.name}/{self.id} ({what})"


def sent_fds(messages: Sequence[Message], source: int) -> tuple[SentFd, ...]:
    """The descriptors in a held CPR state.

    CPR state is a list of (name, id, descriptor) (QEMU migration/cpr.c, vmstate_cpr_fd). The stream has the length of
    the name, the name with its NUL, the id, all big endian, then one byte that carries the descriptor
    (qemu_file_put_fd(), migration/qemu-file.c).

    :param source: process id of the sender.
    :raises InstrumentError: the kernel refused to compare files.
    """
    ours = {row.number: row for row in read_table(os.getpid()).rows}
    theirs = read_table(source).rows
    found, data = [], b""
    for message in messages:
        data += message.data
        for number in message.descriptors:
            name, identifier = name_before(data[:-1]) or ("", -1)
            row = ours[number]
            candidates = [item for item in theirs if (item.device, item.inode) == (row.device, row.inode)]
            same = (item.number for item in candidates if same_open_file(os.getpid(), number, source, item.number))
            found.append(SentFd(name, identifier, row, tuple(same)))
    return tuple(found)


def name_before(data: bytes) -> tuple[str, int] | None:
    """Name and id at the end of these bytes, which a descriptor follows; None when they end in something else."""
    head, number = data[:-4], data[-4:]
    for length in range(2, min(NAME_LIMIT, len(head) - 4) + 1):
        name = head[-length:]
        if head[-length - 4 : -length] == struct.pack(">I", length) and name.endswith(b"\0"):
            return name[:-1].decode("utf-8", "replace"), struct.unpack(">i", number)[0]
    return None
