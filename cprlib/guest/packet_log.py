"""The guest agent's log of test packets (images/guest/agent/records.h), and the figures of streams from the guest."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cprlib.errors import InstrumentError
from cprlib.traffic import metrics
from cprlib.traffic.packet_records import Reflection

LAYOUT = struct.Struct("<IIQQQHHHBB")
RECORD_SIZE = LAYOUT.size
RETRIED = 4  # RECORD_RETRIED


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
    :param flags: enum record_flag in records.h.
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


@dataclass(frozen=True, slots=True)
class GuestStream:
    """Figures of a stream that starts in the guest.

    :param sent: packets sent by the guest.
    :param missing_out: sequence numbers of packets that never arrived at the station (RFC 7680), :param missing_back:
        of packets whose answers never came back.
    :param interruption: by time stamps (RFC 6201): how long nothing came out of the guest. Sending has the guest's
        clock, arrival the host's; only differences of each are used, and the host's clock does not stop during an
        update. A guest clock that stopped shows here in full, because no packet was sent meanwhile.
    """

    sent: int
    missing_out: tuple[int, ...]
    missing_back: tuple[int, ...]
    duplicates_out: int
    duplicates_back: int
    reordered_out: int
    reordered_back: int
    interruption: metrics.TimestampInterruption | None

    @property
    def lost(self) -> int:
        """Packets lost in either direction."""
        return len(self.missing_out) + len(self.missing_back)


def measure_guest_stream(
    sent_ns: Sequence[int], answers: Iterable[tuple[int, int]], log: Iterable[Reflection]
) -> GuestStream:
    """The figures of one stream.

    :param sent_ns: the guest's time stamps T1 by sequence number.
    :param answers: sender's and reflector's sequence number of each answer that the guest received, in that order.
    :param log: what the station's :class:`~cprlib.traffic.station_endpoints.StampReflector` logged of this stream.
    """
    lines = sorted(log, key=lambda line: line.reflector_sequence)
    order = [line.sender_sequence for line in lines]
    came_back = [reflector for _, reflector in answers]
    back = set(came_back)
    return GuestStream(
        sent=len(sent_ns),
        missing_out=metrics.missing_sequences(len(sent_ns), order),
        missing_back=tuple(line.sender_sequence for line in lines if line.reflector_sequence not in back),
        duplicates_out=len(metrics.duplicated_sequences(order)),
        duplicates_back=len(metrics.duplicated_sequences(came_back)),
        reordered_out=len(metrics.reordered_sequences(order)),
        reordered_back=len(metrics.reordered_sequences(came_back)),
        interruption=metrics.interruption_by_timestamps(
            sent_ns, [(line.sender_sequence, line.received_ns) for line in lines]
        ),
    )
