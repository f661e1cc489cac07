"""What was seen of each packet, in columns: a list of objects would cost more than the measuring itself."""

from __future__ import annotations

import ipaddress
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cprlib.traffic.flow import Flow
from cprlib.traffic.stamp import ntp_to_ns


class Reflection(NamedTuple):
    """One line of a session-reflector's log: a test packet that came and was answered.

    :param sender_sequence: sequence number of the session-sender's packet.
    :param reflector_sequence: the reflector's own number for its answer (stateful, RFC 8762 section 4.3).
    :param received_ns: T2, :param sent_ns: T3, CLOCK_REALTIME of the reflector's machine.
    :param peer: source address of the packet, :param peer_port: its UDP source port: together they name the flow.
    """

    sender_sequence: int
    reflector_sequence: int
    received_ns: int
    sent_ns: int
    peer: str
    peer_port: int


@dataclass(slots=True)
class SentColumns:
    """Packets of one flow as sent; the index is the sequence number.

    :param sent_ns: T1, CLOCK_REALTIME just before the packet was given to the kernel.
    """

    sent_ns: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.sent_ns)


@dataclass(slots=True)
class ArrivalColumns:
    """Answers of one flow in the order of their arrival; one entry in each column.

    :param received_ns: T4, the kernel's stamp on receipt, CLOCK_REALTIME.
    :param t1, t2, t3: NTP time stamps as they stood in the packet.
    :param ttl: TTL or hop limit that the sender's packet had at the reflector.
    """

    sender_sequence: array[int] = field(default_factory=lambda: array("I"))
    reflector_sequence: array[int] = field(default_factory=lambda: array("I"))
    received_ns: array[int] = field(default_factory=lambda: array("q"))
    t1: array[int] = field(default_factory=lambda: array("Q"))
    t2: array[int] = field(default_factory=lambda: array("Q"))
    t3: array[int] = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        return len(self.sender_sequence)


class Arrival(NamedTuple):
    """One answer that belongs to a packet we sent; times as in :class:`Reflection`, T4 is ``arrived_ns``."""

    sender_sequence: int
    reflector_sequence: int
    sent_ns: int
    reflector_received_ns: int
    reflector_sent_ns: int
    arrived_ns: int


@dataclass(frozen=True, slots=True)
class Matched:
    """Answers that were checked against what was sent.

    :param arrivals: in the order of arrival.
    :param invalid: answers to packets never sent, or whose time stamp T1 is not the one sent: a broken reflector,
        or one of an earlier session. They are counted and never used.
    """

    arrivals: tuple[Arrival, ...]
    invalid: int


def match_arrivals(sent_ns: Sequence[int], columns: ArrivalColumns) -> Matched:
    """Take the answers whose sequence number and T1 are those of a packet sent."""
    arrivals = []
    invalid = 0
    sent = len(sent_ns)
    for index, sequence in enumerate(columns.sender_sequence):
        if sequence >= sent or ntp_to_ns(columns.t1[index]) != sent_ns[sequence]:
            invalid += 1
            continue
        arrivals.append(
            Arrival(
                sequence,
                columns.reflector_sequence[index],
                sent_ns[sequence],
                ntp_to_ns(columns.t2[index]),
                ntp_to_ns(columns.t3[index]),
                columns.received_ns[index],
            )
        )
    return Matched(tuple(arrivals), invalid)


@dataclass(frozen=True, slots=True)
class SortedLog:
    """A reflector's log by flow.

    :param by_flow: one tuple per flow asked for, in the order of the reflector's own sequence numbers.
    :param foreign: lines of other flows; :param invalid: lines with sequence numbers never sent.
    """

    by_flow: tuple[tuple[Reflection, ...], ...]
    foreign: int
    invalid: int


def sort_log(flows: Sequence[Flow], sent: Sequence[int], log: Iterable[Reflection]) -> SortedLog:
    """Put each line of a reflector's log to its flow.

    :param sent: packets sent per flow; a line with a higher sequence number is invalid.
    """
    index_of = {(_plain(flow.source), flow.source_port): number for number, flow in enumerate(flows)}
    lists: list[list[Reflection]] = [[] for _ in flows]
    foreign = invalid = 0
    known: dict[str, str] = {}
    for line in log:
        address = known.get(line.peer)
        if address is None:
            address = known[line.peer] = _plain(line.peer)
        number = index_of.get((address, line.peer_port))
        if number is None:
            foreign += 1
        elif not 0 <= line.sender_sequence < sent[number]:
            invalid += 1
        else:
            lists[number].append(line)
    for entries in lists:
        entries.sort(key=lambda line: line.reflector_sequence)
    return SortedLog(tuple(tuple(entries) for entries in lists), foreign, invalid)


def _plain(text: str) -> str:
    """An address in one spelling; ``::ffff:10.0.0.1`` of a dual-stack socket is ``10.0.0.1``."""
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
