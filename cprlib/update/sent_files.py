"""The descriptors that a source sends with its CPR state, seen from outside: read off the channel on their way.

CPR state is a list of (name, id, descriptor) (QEMU migration/cpr.c, vmstate_cpr_fd). Of each the stream has the length
of the name, the name with its NUL, the id, all big endian, and then one byte that carries the descriptor
(qemu_file_put_fd(), migration/qemu-file.c).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, InstrumentError
from cprlib.linux.descriptors import Descriptor, read_table
from cprlib.linux.libc import same_open_file
from cprlib.qemu.channels import MigrationChannels
from cprlib.update.channel_gate import ChannelGate
from cprlib.update.channel_piece import Piece
from cprlib.update.live_update import LiveUpdate

NAME_LIMIT = 256  # bytes


@dataclass(frozen=True, slots=True)
class SentFile:
    """One descriptor of the CPR state.

    :param name: the netdev's, or the RAM block's.
    :param file: what was sent, as the relay had it.
    :param source_numbers: descriptors of the source that are the same open file.
    """

    name: str
    id: int
    file: Descriptor
    source_numbers: tuple[int, ...]

    def __str__(self) -> str:
        what = f"{self.file.kind} {self.file.interface}" if self.file.interface else self.file.kind
        return f"{self.name}/{self.id} ({what})"


def name_before(data: bytes) -> tuple[str, int]:
    """Name and id of the descriptor that follows these bytes.

    :raises InstrumentError: they end in something else.
    """
    head, number = data[:-4], data[-4:]
    for length in range(2, min(NAME_LIMIT, len(head) - 4) + 1):
        name = head[-length:]
        if head[-length - 4 : -length] == struct.pack(">I", length) and name.endswith(b"\0"):
            return name[:-1].decode("utf-8", "replace"), struct.unpack(">i", number)[0]
    raise InstrumentError("read CPR state", f"no name before a descriptor, but {data[-32:].hex()}")


def sent_files(pieces: Sequence[Piece], source: int) -> tuple[SentFile, ...]:
    """The descriptors in a CPR state that stands at a gate.

    :param source: process id of the sender.
    :raises InstrumentError: the stream has another layout, or the kernel would not compare files.
    """
    ours = {row.number: row for row in read_table(os.getpid()).rows}
    theirs = read_table(source).rows
    found, data = [], b""
    for piece in pieces:
        data += piece.data
        for number in piece.descriptors:
            name, identifier = name_before(data[:-1])
            row = ours[number]
            alike = [item for item in theirs if (item.device, item.inode) == (row.device, row.inode)]
            same = tuple(item.number for item in alike if same_open_file(os.getpid(), number, source, item.number))
            found.append(SentFile(name, identifier, row, same))
    return tuple(found)


@dataclass(slots=True)
class ObservedUpdate(LiveUpdate):
    """A live update whose CPR state is looked at on its way; it arrives as it was sent.

    :param sent: what the source sent, in order.
    """

    sent: tuple[SentFile, ...] = ()

    def migrate(self, channels: MigrationChannels) -> None:
        """See :meth:`LiveUpdate.migrate`; the CPR channel goes through a relay.

        :raises DeadlineExceeded: the source did not send its CPR state.
        """
        gate = self.stack.enter_context(ChannelGate(self.topology.switch, channels.cpr, None))
        LiveUpdate.migrate(self, MigrationChannels(gate.name, channels.main))
        gate.wait_held(Deadline(30, "the source's CPR state", Awaited.QEMU))
        try:
            self.sent = sent_files(gate.pieces, self.source.pid)
        finally:
            gate.release()
