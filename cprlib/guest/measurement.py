"""What the agent's session-reflector, session-sender and TCP connections report."""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.guest.replies import Reply


@dataclass(frozen=True, slots=True)
class ReflectorSession:
    """One session: a peer's address, port and SSID; ``packets`` is the next reflector sequence number."""

    address: str
    port: int
    ssid: int
    packets: int

    @classmethod
    def of(cls, reply: Reply) -> ReflectorSession:
        """From an answer's part."""
        return cls(reply.text("address"), reply.number("port"), reply.number("ssid"), reply.number("packets"))


@dataclass(frozen=True, slots=True)
class ReflectorCounters:
    """The session-reflector's own account, in packets since its last reset.

    :param received: everything that came to the port, foreign packets too.
    :param short: under 44 bytes; :param truncated: too long; :param corrupt: an error estimate with multiplier 0.
    :param send_no_buffer: refused for a while and tried again; :param send_failed: answers given up.
    :param socket_drops: dropped by the kernel because the socket's buffer was full; -1 when it will not say.
    :param log_overflow: packets reflected that the log had no room for.
    """

    received: int
    reflected: int
    short: int
    truncated: int
    corrupt: int
    too_many_sessions: int
    no_kernel_stamp: int
    send_no_buffer: int
    send_icmp_errors: int
    send_failed: int
    socket_drops: int
    receive_buffer: int
    log_records: int
    log_overflow: int
    sessions: tuple[ReflectorSession, ...]

    @classmethod
    def of(cls, reply: Reply) -> ReflectorCounters:
        """From an answer."""
        return cls(
            received=reply.number("received"),
            reflected=reply.number("reflected"),
            short=reply.number("short"),
            truncated=reply.number("truncated"),
            corrupt=reply.number("corrupt"),
            too_many_sessions=reply.number("too_many_sessions"),
            no_kernel_stamp=reply.number("no_kernel_stamp"),
            send_no_buffer=reply.number("send_no_buffer"),
            send_icmp_errors=reply.number("send_icmp_errors"),
            send_failed=reply.number("send_failed"),
            socket_drops=reply.number("socket_drops"),
            receive_buffer=reply.number("receive_buffer"),
            log_records=reply.number("log_records"),
            log_overflow=reply.number("log_overflow"),
            sessions=reply.objects("sessions", ReflectorSession.of),
        )

    @property
    def peers(self) -> tuple[tuple[str, int], ...]:
        """Address and port of each session, for :func:`cprlib.guest.packet_log.reflections`."""
        return tuple((session.address, session.port) for session in self.sessions)


@dataclass(frozen=True, slots=True)
class SenderStream:
    """One stream of the guest's session-sender.

    :param active: still sending; :param sent: packets, also the next sequence number.
    :param slots_given_up: moments of the schedule at which nothing was sent because the guest was over 100 ms late.
    :param worst_late_ns: the latest a packet was sent after its moment.
    """

    active: bool
    destination: str
    port: int
    source_port: int
    ssid: int
    sent: int
    answers: int
    foreign: int
    slots_given_up: int
    worst_late_ns: int
    send_no_buffer: int
    send_icmp_errors: int
    send_failed: int
    socket_drops: int

    @classmethod
    def of(cls, reply: Reply) -> SenderStream:
        """From an answer's part."""
        return cls(
            active=reply.flag("active"),
            destination=reply.text("destination"),
            port=reply.number("port"),
            source_port=reply.number("source_port"),
            ssid=reply.number("ssid"),
            sent=reply.number("sent"),
            answers=reply.number("answers"),
            foreign=reply.number("foreign"),
            slots_given_up=reply.number("slots_given_up"),
            worst_late_ns=reply.number("worst_late_ns"),
            send_no_buffer=reply.number("send_no_buffer"),
            send_icmp_errors=reply.number("send_icmp_errors"),
            send_failed=reply.number("send_failed"),
            socket_drops=reply.number("socket_drops"),
        )


@dataclass(frozen=True, slots=True)
class ToggleResult:
    """What came of changing the queue pairs in use again and again.

    :param changes: attempts; :param failures: those the kernel refused, the last with ``last_errno``.
    :param worst_ns: the longest that one took.
    """

    active: bool
    changes: int
    failures: int
    last_errno: int
    worst_ns: int
    channels: int

    @classmethod
    def of(cls, reply: Reply) -> ToggleResult:
        """From an answer."""
        return cls(
            reply.flag("active"),
            reply.number("changes"),
            reply.number("failures"),
            reply.number("last_errno"),
            reply.number("worst_ns"),
            reply.number("channels"),
        )


@dataclass(frozen=True, slots=True)
class TcpResult:
    """One TCP connection of the guest.

    :param role: ``source`` or ``sink``; :param state: ``connecting``, ``open``, ``done`` or ``failed``.
    :param byte_count: of content sent or received; :param sha256: their digest, in hexadecimal.
    :param longest_stall_ns: the longest time without progress between the first byte and the last.
    :param retransmissions: segments, TCP_INFO tcpi_total_retrans; :param error: errno, 0 for none.
    """

    role: str
    state: str
    byte_count: int
    sha256: str
    longest_stall_ns: int
    retransmissions: int
    rtt_us: int
    error: int

    @classmethod
    def of(cls, reply: Reply) -> TcpResult:
        """From an answer's part."""
        return cls(
            reply.text("role"),
            reply.text("state"),
            reply.number("byte_count"),
            reply.text("sha256"),
            reply.number("longest_stall_ns"),
            reply.number("retransmissions"),
            reply.number("rtt_us"),
            reply.number("error"),
        )
