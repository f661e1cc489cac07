"""The records of each packet at sender, reflector and capture, and how they are matched to each other.

Sender and capture record in columns: one object per packet would cost more than sending it.
"""

from __future__ import annotations

import ipaddress
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cprlib.traffic.flow import Flow
from cprlib.traffic.stamp import ntp_to_ns


class Reflection(NamedTuple):
    """One line of a session-reflector's log: a test packet that it received and answered.

    :param sender_sequence: sequence number of the session-sender's packet.
    :param reflector_sequence: sequence number of the answer (stateful reflector, RFC 8762 section 4.3).
    :param received_ns: T2, :param sent_ns: T3, CLOCK_REALTIME of the reflector's machine.
    :param peer, peer_port: source address and UDP source port of the packet; together they identify the flow.
    :param retried: the NIC or the socket had no room for the answer at first.
    """

    sender_sequence: int
    reflector_sequence: int
    received_ns: int
    sent_ns: int
    peer: str
    peer_port: int
    retried: bool = False


@dataclass(slots=True)
class ArrivalColumns:
    """The answers captured on one flow, in the order of arrival.

    :param received_ns: T4, the kernel's time stamp of reception, CLOCK_REALTIME.
    :param t1, t2, t3: NTP time stamps in the packet.
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
    """An answer to a packet that was sent; T1 and T4 are ns of the sender's clock, T2 and T3 of the reflector's."""

    sender_sequence: int
    reflector_sequence: int
    t1: int
    t2: int
    t3: int
    t4: int


@dataclass(frozen=True, slots=True)
class Matched:
    """The answers of one flow, compared with the packets sent.

    :param arrivals: in the order of arrival.
    :param invalid: answers to packets never sent, or with another T1: damaged on the way.
    :param not_in_log: answers that are not in the reflector's log: damaged on the way. An answer that the reflector did
        not send must not hide a missing one.
    """

    arrivals: tuple[Arrival, ...]
    invalid: int
    not_in_log: int


def match_arrivals(sent_ns: Sequence[int], columns: ArrivalColumns, log: Iterable[Reflection] | None = None) -> Matched:
    """Select the answers whose sequence number and T1 are those of a packet sent, and that are in the log if any."""
    logged = None if log is None else {line.reflector_sequence: line.sender_sequence for line in log}
    arrivals = []
    invalid = not_in_log = 0
    sent = len(sent_ns)
    for index, sequence in enumerate(columns.sender_sequence):
        own = columns.reflector_sequence[index]
        if sequence >= sent or ntp_to_ns(columns.t1[index]) != sent_ns[sequence]:
            invalid += 1
        elif logged is not None and logged.get(own) != sequence:
            not_in_log += 1
        else:
            t2, t3 = ntp_to_ns(columns.t2[index]), ntp_to_ns(columns.t3[index])
            arrivals.append(Arrival(sequence, own, sent_ns[sequence], t2, t3, columns.received_ns[index]))
    return Matched(tuple(arrivals), invalid, not_in_log)


@dataclass(frozen=True, slots=True)
class SortedLog:
    """A reflector's log by flow.

    :param by_flow: one tuple per flow, ordered by the reflector's sequence number.
    :param foreign: lines of other flows; :param invalid: lines with sequence numbers never sent.
    """

    by_flow: tuple[tuple[Reflection, ...], ...]
    foreign: int
    invalid: int


def sort_log(flows: Sequence[Flow], sent: Sequence[int], log: Iterable[Reflection]) -> SortedLog:
    """Sort a reflector's log by flow.

    :param sent: packets sent per flow; a line with a higher sequence number is invalid.
    """
    index_of = {(_canonical(flow.source), flow.source_port): number for number, flow in enumerate(flows)}
    lists: list[list[Reflection]] = [[] for _ in flows]
    foreign = invalid = 0
    known: dict[str, str] = {}
    for line in log:
        address = known.get(line.peer)
        if address is None:
            address = known[line.peer] = _canonical(line.peer)
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


def _canonical(text: str) -> str:
    """The canonical text of an address; ``::ffff:10.0.0.1`` of a dual-stack socket becomes ``10.0.0.1``."""
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
