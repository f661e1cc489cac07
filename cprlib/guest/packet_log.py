"""The guest agent's log of test packets (images/guest/agent/records.h)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cprlib.errors import InstrumentError
from cprlib.traffic.packet_records import Reflection

LAYOUT = struct.Struct("<IIQQQHHHH")
RECORD_SIZE = LAYOUT.size
RETRIED = 1  # RECORD_RETRIED


class RecordKind(enum.IntEnum):
    """What a record is about, and its three times (CLOCK_REALTIME of the guest unless said otherwise).

    ``REFLECTED``: T2 received, T3 sent, T1 as the sender wrote it. ``SENT``: T1 sent.
    ``ANSWER``: T2 and T3 as the reflector wrote them, T4 received.
    """

    REFLECTED = 1
    SENT = 2
    ANSWER = 3


class PacketRecord(NamedTuple):
    """One record; the meaning of the times depends on ``kind``.

    :param session: index of the reflector's session or of the sender's stream.
    :param size: bytes of UDP payload.
    :param flags: enum record_flags in records.h.
    """

    sender_sequence: int
    reflector_sequence: int
    a_ns: int
    b_ns: int
    c_ns: int
    session: int
    size: int
    flags: int
    kind: int


@dataclass(frozen=True, slots=True)
class PacketLog:
    """A whole log.

    :param content: packed records, as received: there may be hundreds of thousands.
    :param overflow: packets for which the log had no room.
    :raises InstrumentError: the content is not a whole number of records.
    """

    content: bytes
    overflow: int

    def __post_init__(self) -> None:
        if len(self.content) % RECORD_SIZE:
            raise InstrumentError("read the guest's log", f"{len(self.content)} bytes are no multiple of {RECORD_SIZE}")

    def __len__(self) -> int:
        return len(self.content) // RECORD_SIZE

    def __iter__(self) -> Iterator[PacketRecord]:
        return map(PacketRecord._make, LAYOUT.iter_unpack(self.content))

    def of_kind(self, kind: RecordKind) -> Iterator[PacketRecord]:
        return (record for record in self if record.kind == kind)


def reflections(log: PacketLog, peers: Sequence[tuple[str, int]]) -> Iterator[Reflection]:
    """The reflector's log in the form of cprlib.traffic.

    :param peers: address and UDP port of each session, from the reflector's counters.
    :raises InstrumentError: a record names a session that is not among them.
    """
    for record in log.of_kind(RecordKind.REFLECTED):
        if record.session >= len(peers):
            raise InstrumentError("read the reflector's log", f"it has session {record.session} of {len(peers)}")
        peer, port = peers[record.session]
        times_ns, retried = (record.a_ns, record.b_ns), bool(record.flags & RETRIED)
        yield Reflection(record.sender_sequence, record.reflector_sequence, *times_ns, peer, port, retried)
