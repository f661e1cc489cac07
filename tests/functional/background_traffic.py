"""Streams that run beside the measured one: test packets that start in the guest, and TCP connections.

They cross the same NIC under the same update. The ledger's rows do not count them, because they follow the measured
stream's sequence numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded
from cprlib.evidence.case import Check, Outcome, Stream
from cprlib.guest.agent import AgentConnection, GuestStreamSettings, GuestTcpSettings
from cprlib.guest.packet_log import GuestStream, PacketLog, RecordKind, measure_guest_stream
from cprlib.guest.replies import SenderStream, TcpResult
from cprlib.linux.topology import GUEST, STATION
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.station_endpoints import ReflectorLog, StationEndpoints
from cprlib.traffic.tcp import TcpEndpointReport, TcpEndpointSettings, TcpRole, content_errors

REFLECTOR_PORT, GUEST_PORT = 8620, 22000
TCP_PORTS = {TcpRole.SOURCE: 5001, TcpRole.SINK: 5002}  # by the station's role
END_S = 20.0
LATE_S = 1.5
TCP_PART = 100  # bytes/s of each connection for each packet/s of the measured stream


@dataclass(frozen=True, slots=True)
class GuestStreamPlan:
    """A stream that starts in the guest.

    :param part: of the measured stream's rate.
    :param size: bytes of UDP payload, more than 1472 for packets larger than the MTU.
    """

    name: str
    part: float
    size: int = 44
    dscp: int = 0


GUEST_STREAMS = (
    GuestStreamPlan("from the guest", 0.25),
    GuestStreamPlan("from the guest, larger than the MTU", 0.03, size=4000),
)


@contextlib.contextmanager
def companions(case: MeasuredCase, plans: Sequence[GuestStreamPlan] = GUEST_STREAMS) -> Iterator[None]:
    """Streams that start in the guest and a TCP connection in each direction, while the body runs."""
    address = STATION.ipv6 if case.parameters.ip_version == 6 else STATION.ipv4
    with contextlib.ExitStack() as stack:
        with case.guest.topology.station.entered():
            ends = stack.enter_context(StationEndpoints(REFLECTOR_PORT, (address,)))
        streams = [(plan, _start(case, address, plan, number)) for number, plan in enumerate(plans)]
        connections = [(role, *_connect(case, ends, role)) for role in TcpRole]
        yield
        agent = case.guest.agent
        for role, number, theirs in connections:
            if role is TcpRole.SINK:
                agent.stop_tcp(theirs)
            _add_connection(case, role, ends.finish(number, END_S), _finished(agent, theirs))
        for _, index in streams:
            agent.stop_stream(index)
        _add_streams(case, streams, _counters_at_rest(agent), ends.reflections())


def _rate(case: MeasuredCase, plan: GuestStreamPlan) -> int:
    """Packets/s of a stream."""
    return max(1, round(case.parameters.rate * plan.part))


def _start(case: MeasuredCase, address: str, plan: GuestStreamPlan, number: int) -> int:
    return case.guest.agent.start_stream(
        GuestStreamSettings(
            address,
            _rate(case, plan),
            size=plan.size,
            port=REFLECTOR_PORT,
            source_port=GUEST_PORT + number,
            dscp=plan.dscp,
        )
    )


def _counters_at_rest(agent: AgentConnection) -> tuple[SenderStream, ...]:
    """The streams' counters once late answers have come; what is missing after that is lost."""
    with contextlib.suppress(DeadlineExceeded):
        Deadline(LATE_S, "the last answers").poll(
            lambda: all(stream.answers >= stream.sent for stream in agent.streams()) or None, 0.1
        )
    return agent.streams()


def _add_streams(
    case: MeasuredCase,
    streams: Sequence[tuple[GuestStreamPlan, int]],
    counters: Sequence[SenderStream],
    answered: ReflectorLog,
) -> None:
    log = case.guest.agent.sender_log()
    for plan, index in streams:
        ours = [line for line in answered.log if line.peer_port == counters[index].source_port]
        measured = _measure(log, index, ours)
        socket_drops = answered.dropped + max(0, counters[index].socket_drops)
        complete = not log.overflow and measured.sent == counters[index].sent
        interruption = measured.interruption
        case.add_stream(
            Stream(
                plan.name,
                "stamp",
                sent=measured.sent,
                lost=measured.lost,
                duplicates=measured.duplicates_out + measured.duplicates_back,
                reordered=measured.reordering_out.reordered + measured.reordering_back.reordered,
                longest_stall_ms=interruption.high_ns / 1e6 if interruption else None,
                note=f"{_rate(case, plan)} packets/s of {plan.size} bytes{_losses(measured)}",
            ),
            Check(
                f"log-of-{plan.name.replace(',', '').replace(' ', '-')}",
                Outcome.PASS if complete and not socket_drops else Outcome.INCONCLUSIVE,
                "the guest's log is whole, no socket dropped a packet",
                f"{measured.sent} of {counters[index].sent} packets logged, {socket_drops} dropped by sockets",
            ),
        )


def _losses(measured: GuestStream) -> str:
    ways = {"out": measured.missing_out, "back": measured.missing_back}
    return "".join(
        f"; lost on the way {way}: {len(missing)}, first {list(missing[:8])}"
        for way, missing in ways.items()
        if missing
    )


def _measure(log: PacketLog, index: int, answered: Sequence[Reflection]) -> GuestStream:
    sent = {item.sender_sequence: item.a_ns for item in log.of_kind(RecordKind.SENT) if item.session == index}
    answers = [
        (item.sender_sequence, item.reflector_sequence)
        for item in log.of_kind(RecordKind.ANSWER)
        if item.session == index
    ]
    return measure_guest_stream([sent[number] for number in sorted(sent)], answers, answered)


def _connect(case: MeasuredCase, ends: StationEndpoints, role: TcpRole) -> tuple[int, int]:
    """The guest waits, the station connects; ``role`` is the station's."""
    port = TCP_PORTS[role]
    rate = round(case.parameters.rate * TCP_PART)
    theirs = case.guest.agent.start_tcp(
        GuestTcpSettings("sink" if role is TcpRole.SOURCE else "source", port, rate=rate)
    )
    address = GUEST.ipv6 if case.parameters.ip_version == 6 else GUEST.ipv4
    number = ends.connect(TcpEndpointSettings(role, port, address, rate=rate))
    Deadline(END_S, f"bytes on TCP port {port}").poll(lambda: ends.byte_count(number) > 0 or None)
    return number, theirs


def _finished(agent: AgentConnection, index: int) -> TcpResult:
    def ended() -> TcpResult | None:
        result = agent.tcp()[index]
        return result if result.state in ("done", "failed") else None

    return Deadline(END_S, "the guest's end of the connection to finish").poll(ended, 0.1)


def _add_connection(case: MeasuredCase, role: TcpRole, station: TcpEndpointReport, guest: TcpResult) -> None:
    to_guest = role is TcpRole.SOURCE
    doubts = list(content_errors(station, guest.byte_count, guest.sha256))
    if guest.error:
        doubts.append(f"the guest's end failed with errno {guest.error}")
    sent, received = (station.byte_count, guest.byte_count) if to_guest else (guest.byte_count, station.byte_count)
    case.add_stream(
        Stream(
            "TCP to the guest" if to_guest else "TCP from the guest",
            "tcp",
            sent=sent,
            lost=abs(sent - received),
            retransmissions=station.retransmissions if to_guest else guest.retransmissions,
            longest_stall_ms=(guest.longest_stall_ns if to_guest else station.longest_stall_ns) / 1e6,
        ),
        Check(
            "tcp-to-guest" if to_guest else "tcp-from-guest",
            Outcome.FAIL if doubts else Outcome.PASS,
            "equal content at both ends, closed in order",
            "; ".join(doubts) or f"{sent} bytes, equal content",
        ),
    )
