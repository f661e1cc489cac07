"""Background traffic: streams of test packets that start in the guest, and TCP connections in both directions.

It uses the same NIC during the same update as the measured stream. The ledger has no rows for it, because it follows
the sequence numbers of the measured stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cprlib.deadline import Deadline, wait_while_rising
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.evidence.records import Check, Outcome, Stream
from cprlib.guest.agent import AgentConnection
from cprlib.guest.packet_log import PacketLog, RecordKind
from cprlib.guest.replies import SenderStream, TcpResult
from cprlib.linux.topology import GUEST, STATION
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic import metrics
from cprlib.traffic.figures import PerDirection
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.session import LATEST_S, QUIET_S
from cprlib.traffic.station_endpoints import ReflectorLog, StationEndpoints
from cprlib.traffic.tcp import TcpEndpointReport, TcpEndpointSettings, TcpRole, content_errors
from cprlib.update.guest_traffic import tcp_end_s

REFLECTOR_PORT, GUEST_PORT = 8620, 22000
TCP_PORTS = {TcpRole.SOURCE: 5001, TcpRole.SINK: 5002}  # by the station's role
FIRST_BYTES_S = 20.0
FIRST_ANSWER_S = 5.0
POLL_S = 0.1
TCP_BYTES_PER_PACKET = 100  # rate of each connection, per packet of the measured stream


@dataclass(frozen=True, slots=True)
class GuestStreamPlan:
    """A stream that starts in the guest.

    :param rate_share: of the measured stream's rate.
    :param size: bytes of UDP payload, more than 1472 for packets larger than the MTU.
    """

    name: str
    rate_share: float
    size: int = 44


GUEST_STREAMS = (
    GuestStreamPlan("from the guest", 0.25),
    GuestStreamPlan("from the guest, larger than the MTU", 0.03, size=4000),
)


@dataclass(frozen=True, slots=True)
class GuestStream:
    """Figures of a stream that starts in the guest; forward is from the guest to the station.

    :param sent: packets sent by the guest.
    :param missing_forward: sequence numbers of packets that never arrived at the station (RFC 7680).
    :param missing_return: those of packets whose answers never came back.
    :param interruption: by time stamps (RFC 6201): how long nothing came out of the guest. Sending has the guest's
        clock, arrival the host's; only differences of each are used, and the host's clock does not stop during an
        update. A guest clock that stopped shows here in full, because no packet was sent meanwhile.
    """

    sent: int
    missing_forward: tuple[int, ...]
    missing_return: tuple[int, ...]
    duplicates: PerDirection
    reordered: PerDirection
    interruption: metrics.TimestampInterruption | None


def measure_guest_stream(
    sent_ns: Sequence[int], answers: Iterable[tuple[int, int]], log: Iterable[Reflection]
) -> GuestStream:
    """The figures of one stream.

    :param sent_ns: the guest's time stamps T1 by sequence number.
    :param answers: sender's and reflector's sequence number of each answer that the guest received, in that order.
    :param log: what the station's :class:`~cprlib.traffic.station_endpoints.StampReflector` logged of this stream.
    """
    lines = sorted(log, key=lambda line: line.reflector_sequence)
    order, came_back = [line.sender_sequence for line in lines], [reflector for _, reflector in answers]
    back = set(came_back)
    ways = (order, came_back)
    return GuestStream(
        sent=len(sent_ns),
        missing_forward=metrics.missing_sequences(len(sent_ns), order),
        missing_return=tuple(line.sender_sequence for line in lines if line.reflector_sequence not in back),
        duplicates=PerDirection(*(len(metrics.duplicated_sequences(way)) for way in ways)),
        reordered=PerDirection(*(len(metrics.reordered_sequences(way)) for way in ways)),
        interruption=metrics.interruption_by_timestamps(
            sent_ns, [(line.sender_sequence, line.received_ns) for line in lines]
        ),
    )


@contextlib.contextmanager
def background_traffic(case: MeasuredCase) -> Iterator[None]:
    """Run streams from the guest and a TCP connection in each direction, and add their figures to the case.

    Those that carry nothing before the body are inconclusive, and not compared.
    """
    address = STATION.ipv6 if case.parameters.ip_version == 6 else STATION.ipv4
    with contextlib.ExitStack() as stack:
        with case.guest.topology.station.entered():
            station = stack.enter_context(StationEndpoints(REFLECTOR_PORT, (address,)))
        started = [(plan, _start(case, address, plan, number)) for number, plan in enumerate(GUEST_STREAMS)]
        streams = [(plan, index) for plan, index in started if _carries(case, plan, index)]
        connections = [(role, *_connect(case, station, role)) for role in TcpRole]
        yield
        agent, end_s = case.guest.agent, tcp_end_s(case.guest)
        for role, number, guest_number in connections:
            if role is TcpRole.SINK:
                agent.stop_tcp(guest_number)
            report = station.finish(number, end_s)
            deadline = Deadline(end_s, "the guest's endpoint of the connection to finish", Awaited.GUEST)
            _add_connection(case, role, report, agent.finished_tcp(guest_number, deadline))
        for _, index in started:
            agent.stop_stream(index)
        _add_streams(case, streams, _final_counters(agent), station.reflections())


def _rate(case: MeasuredCase, plan: GuestStreamPlan) -> int:
    return max(1, round(case.parameters.rate * plan.rate_share))


def _start(case: MeasuredCase, address: str, plan: GuestStreamPlan, number: int) -> int:
    rate, source_port = _rate(case, plan), GUEST_PORT + number
    return case.guest.agent.start_stream(address, rate, size=plan.size, port=REFLECTOR_PORT, source_port=source_port)


def _carries(case: MeasuredCase, plan: GuestStreamPlan, index: int) -> bool:
    """Whether packets of a stream are answered before the update; if not, that is in the evidence."""
    try:
        Deadline(FIRST_ANSWER_S, "a first answer").poll(lambda: case.guest.agent.streams()[index].answers > 0, 0.05)
    except DeadlineExceeded as error:
        reason = f"it carried nothing before the update: {error.happened}"
        case.inconclusive(f"log-of-{_kebab(plan)}", "packets are answered before the update", reason)
        return False
    return True


def _kebab(plan: GuestStreamPlan) -> str:
    return plan.name.replace(",", "").replace(" ", "-")


def _final_counters(agent: AgentConnection) -> tuple[SenderStream, ...]:
    """The streams' counters after the last answers; what is missing then is lost."""

    def answered() -> tuple[int, int]:
        streams = agent.streams()
        return sum(min(stream.answers, stream.sent) for stream in streams), sum(stream.sent for stream in streams)

    wait_while_rising(answered, quiet_s=QUIET_S, latest_s=LATEST_S, interval=POLL_S)
    return agent.streams()


def _add_streams(
    case: MeasuredCase,
    streams: Sequence[tuple[GuestStreamPlan, int]],
    counters: Sequence[SenderStream],
    reflector: ReflectorLog,
) -> None:
    log = case.guest.agent.sender_log()
    for plan, index in streams:
        lines = [line for line in reflector.log if line.peer_port == counters[index].source_port]
        measured = _measure(log, index, lines)
        socket_drops = reflector.dropped + max(0, counters[index].socket_drops)
        complete = not log.overflow and measured.sent == counters[index].sent
        interruption = measured.interruption
        case.add_stream(
            Stream(
                plan.name,
                "stamp",
                sent=measured.sent,
                lost=_lost(measured, socket_drops) if complete else None,
                duplicates=measured.duplicates.total,
                reordered=measured.reordered.total,
                longest_stall_ms=interruption.high_ns / 1e6 if interruption else None,
                note=f"{_rate(case, plan)} packets/s of {plan.size} bytes{_losses(measured)}",
                lost_from_guest=len(measured.missing_forward) if complete else None,
            ),
            Check(
                f"log-of-{_kebab(plan)}",
                Outcome.PASS if complete and not socket_drops else Outcome.INCONCLUSIVE,
                "the guest's log is complete, no socket dropped a packet",
                f"{measured.sent} of {counters[index].sent} packets logged, {socket_drops} dropped by sockets",
            ),
        )


def _lost(measured: GuestStream, socket_drops: int) -> int | None:
    """Packets lost on the way, those apart that the sockets at both ends dropped; None when these may be all."""
    lost = len(measured.missing_forward) + len(measured.missing_return)
    return None if 0 < lost <= socket_drops else max(0, lost - socket_drops)


def _losses(measured: GuestStream) -> str:
    directions = {"out": measured.missing_forward, "back": measured.missing_return}
    return "".join(
        f"; lost on the way {direction}: {len(missing)}, first {list(missing[:8])}"
        for direction, missing in directions.items()
        if missing
    )


def _measure(log: PacketLog, index: int, lines: Sequence[Reflection]) -> GuestStream:
    sent = {record.sender_sequence: record.a_ns for record in log.of_kind(RecordKind.SENT) if record.session == index}
    answers = [
        (record.sender_sequence, record.reflector_sequence)
        for record in log.of_kind(RecordKind.ANSWER)
        if record.session == index
    ]
    return measure_guest_stream([sent[number] for number in sorted(sent)], answers, lines)


def _connect(case: MeasuredCase, station: StationEndpoints, role: TcpRole) -> tuple[int, int]:
    """Connect the station to the guest; ``role`` is the station's. Returns the numbers of both endpoints."""
    port = TCP_PORTS[role]
    rate = round(case.parameters.rate * TCP_BYTES_PER_PACKET)
    guest_number = case.guest.agent.start_tcp(role.opposite, port, rate=rate)
    address = GUEST.ipv6 if case.parameters.ip_version == 6 else GUEST.ipv4
    number = station.connect(TcpEndpointSettings(role, port, address, rate=rate))
    Deadline(FIRST_BYTES_S, f"bytes on TCP port {port}, to or from the guest", Awaited.GUEST).poll(
        lambda: station.byte_count(number) > 0
    )
    return number, guest_number


def _add_connection(case: MeasuredCase, role: TcpRole, station: TcpEndpointReport, guest: TcpResult) -> None:
    to_guest = role is TcpRole.SOURCE
    errors = content_errors(station, guest.byte_count, guest.crc32, guest.error)
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
            Outcome.FAIL if errors else Outcome.PASS,
            "equal content at both ends, closed in order",
            "; ".join(errors) or f"{sent} bytes, equal content",
        ),
    )
