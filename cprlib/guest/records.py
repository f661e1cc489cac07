"""Records of test packets as the guest's agent keeps them (images/guest/agent/records.h)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cprlib.errors import InstrumentError
from cprlib.traffic.records import Reflection

LAYOUT = struct.Struct("<IIQQQHHHBB")
SIZE = LAYOUT.size


class Kind(enum.IntEnum):
    """What a record is about, and what its three times are (CLOCK_REALTIME of the guest unless said otherwise).

    ``REFLECTED``: T2 received, T3 sent, T1 as the sender wrote it. ``SENT``: T1 sent.
    ``ANSWER``: T2 and T3 as the reflector wrote them, T4 received.
    """

    REFLECTED = 1
    SENT = 2
    ANSWER = 3


class Flags(enum.IntFlag):
    """What was unusual about a packet."""

    NO_KERNEL_STAMP = 1
    NOT_SENT = 2
    RETRIED = 4


class Record(NamedTuple):
    """One record; which time is which depends on ``kind``.

    :param session: index of the reflector's session or of the sender's stream.
    :param size: bytes of UDP payload.
    """

    sender_sequence: int
    reflector_sequence: int
    a_ns: int
    b_ns: int
    c_ns: int
    session: int
    size: int
    flags: int
    ttl: int
    kind: int


@dataclass(frozen=True, slots=True)
class PacketLog:
    """A whole log.

    :param data: records, packed; kept as they came because there may be hundreds of thousands.
    :param overflow: packets for which the log had no room.
    """

    data: bytes
    overflow: int

    def __post_init__(self) -> None:
        if len(self.data) % SIZE:
            raise InstrumentError("read the guest's log", f"{len(self.data)} bytes are no multiple of {SIZE}")

    def __len__(self) -> int:
        return len(self.data) // SIZE

    def __iter__(self) -> Iterator[Record]:
        return map(Record._make, LAYOUT.iter_unpack(self.data))

    def of_kind(self, kind: Kind) -> Iterator[Record]:
        """The records of one kind."""
        return (record for record in self if record.kind == kind)


def reflections(log: PacketLog, peers: Sequence[tuple[str, int]]) -> Iterator[Reflection]:
    """A reflector's log as cprlib.traffic reads it.

    :param peers: address and UDP port of each session, from the reflector's counters.
    :raises InstrumentError: a record of a session that is not among them.
    """
    for record in log.of_kind(Kind.REFLECTED):
        if record.session >= len(peers):
            raise InstrumentError("read the reflector's log", f"it has session {record.session} of {len(peers)}")
        peer, port = peers[record.session]
        yield Reflection(record.sender_sequence, record.reflector_sequence, record.a_ns, record.b_ns, peer, port)
