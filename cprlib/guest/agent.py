"""The agent in the guest: the session-reflector and session-sender, and the guest's view of its network."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import asdict, dataclass

from cprlib.errors import DeadlineExceeded, GuestFailed, InstrumentError
from cprlib.guest.channel import AgentChannel
from cprlib.guest.measurement import ReflectorCounters, SenderStream, TcpResult, ToggleResult
from cprlib.guest.records import SIZE, PacketLog
from cprlib.guest.replies import Clocks, Identity, NetInfo

REPEAT = 2.0  # seconds without an answer after which a harmless request is sent again
LOG_LIMIT = 10_000_000  # records; more is nonsense
BROKEN_PIECES = 3  # pieces of a log that may arrive broken before it is given up


@dataclass(frozen=True, slots=True)
class GuestStreamSettings:
    """A stream of test packets that starts in the guest.

    :param destination: IPv4 or IPv6 address of the session-reflector; :param port: its UDP port.
    :param rate: packets/s, 1 to 100,000; :param count: packets, 0 for "until stopped".
    :param size: bytes of UDP payload, 44 to 65,507; :param source_port: 0 for any; :param dscp: 0 to 63.
    """

    destination: str
    rate: int
    count: int = 0
    size: int = 44
    port: int = 862
    source_port: int = 0
    ssid: int = 0
    dscp: int = 0


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """A TCP connection with content of known sort.

    :param role: ``source`` sends, ``sink`` receives.
    :param address: to connect to; None: wait for a connection on ``port``.
    :param rate: bytes/s that a source sends, 0 for as fast as it goes; :param byte_count: that a source sends, then it
        closes its half; 0 for "until stopped".
    :param seed: of the content; see images/guest/agent/content.h.
    """

    role: str
    port: int
    address: str | None = None
    rate: int = 0
    byte_count: int = 0
    seed: int = 1


class AgentConnection:
    """The agent of one guest, through whichever QEMU runs it.

    All methods raise GuestFailed (refused, channel broke), DeadlineExceeded (no answer) or InstrumentError (nonsense).

    :param connection: our end of the virtio-serial port; stays the caller's to close.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._channel = AgentChannel(connection)

    def use(self, connection: socket.socket) -> None:
        """Go on through another QEMU, after a live update."""
        self._channel.use(connection)

    def ping(self, seconds: float = 10.0) -> Clocks:
        """The guest's clocks; also the way to find out whether the agent is there."""
        return Clocks.of(self._channel.request("ping", seconds=seconds, repeat_after=REPEAT).reply)

    def identity(self, seconds: float = 10.0) -> Identity:
        """Which boot of which kernel this is."""
        return Identity.of(self._channel.request("identity", seconds=seconds, repeat_after=REPEAT).reply)

    def network(self, seconds: float = 10.0) -> NetInfo:
        """NICs and counters."""
        return NetInfo.of(self._channel.request("netinfo", seconds=seconds, repeat_after=REPEAT).reply)

    def set_queue_pairs(self, pairs: int, device: str = "eth0", seconds: float = 10.0) -> int:
        """Use so many queue pairs, as ``ethtool -L combined``.

        :returns: how many are used now.
        """
        answer = self._channel.request(
            "set-channels", {"device": device, "pairs": pairs}, seconds=seconds, repeat_after=REPEAT
        )
        return answer.reply.number("channels")

    def start_toggling(self, low: int, high: int, period_ms: int = 50, device: str = "eth0") -> None:
        """Change the queue pairs in use between two numbers, again and again, until :meth:`stop_toggling`."""
        self._channel.request("toggle-start", {"low": low, "high": high, "period_ms": period_ms, "device": device})

    def stop_toggling(self) -> ToggleResult:
        """Stop that."""
        return ToggleResult.of(self._channel.request("toggle-stop", repeat_after=REPEAT).reply)

    def toggling(self) -> ToggleResult:
        """How that is going."""
        return ToggleResult.of(self._channel.request("toggle-status", repeat_after=REPEAT).reply)

    def reflector(self) -> ReflectorCounters:
        """The session-reflector's counters."""
        return ReflectorCounters.of(self._channel.request("reflector", repeat_after=REPEAT).reply)

    def reset_reflector(self) -> None:
        """Forget sessions, counters and log; each peer's next packet starts a new session at 0."""
        self._channel.request("reflector-reset", repeat_after=REPEAT)

    def pause_reflector(self, *, paused: bool = True, receive_buffer: int = 0) -> None:
        """Let the session-reflector take no packet, or go on: meanwhile they wait in its socket.

        :param receive_buffer: of that socket in bytes (SO_RCVBUF); 0 leaves it as it is.
        """
        self._channel.request(
            "reflector-pause", {"paused": int(paused), "receive_buffer": receive_buffer}, repeat_after=REPEAT
        )

    def reflector_log(self, seconds: float = 60.0) -> PacketLog:
        """The log of every packet reflected."""
        return self._log("reflector", seconds)

    def start_stream(self, settings: GuestStreamSettings) -> int:
        """Start sending.

        :returns: the stream's index.
        """
        answer = self._channel.request("sender-start", asdict(settings))
        return answer.reply.number("stream")

    def stop_stream(self, stream: int) -> None:
        """Stop sending; answers are still taken."""
        self._channel.request("sender-stop", {"stream": stream}, repeat_after=REPEAT)

    def streams(self) -> tuple[SenderStream, ...]:
        """The streams' counters, in the order they were started."""
        return self._channel.request("sender", repeat_after=REPEAT).reply.objects("streams", SenderStream.of)

    def reset_streams(self) -> None:
        """Close all streams and forget counters and log."""
        self._channel.request("sender-reset", repeat_after=REPEAT)

    def sender_log(self, seconds: float = 60.0) -> PacketLog:
        """The log of every packet sent and every answer, of all streams."""
        return self._log("sender", seconds)

    def start_tcp(self, settings: TcpSettings) -> int:
        """Start a TCP connection, or wait for one.

        :returns: its index.
        """
        parameters = {key: value for key, value in asdict(settings).items() if value is not None}
        answer = self._channel.request("tcp-start", parameters)
        return answer.reply.number("connection")

    def stop_tcp(self, connection: int) -> None:
        """Let a source send no more and close its half; the digest is of what was sent."""
        self._channel.request("tcp-stop", {"connection": connection}, repeat_after=REPEAT)

    def tcp(self) -> tuple[TcpResult, ...]:
        """The TCP connections, in the order they were started."""
        return self._channel.request("tcp", repeat_after=REPEAT).reply.objects("connections", TcpResult.of)

    def reset_tcp(self) -> None:
        """Close and forget all of them."""
        self._channel.request("tcp-reset", repeat_after=REPEAT)

    def add_vlan(self, vlan: int, device: str = "eth0") -> None:
        """Make and raise a VLAN device, so that the NIC's VLAN filter has this id."""
        self._channel.request("vlan", {"action": "add", "vlan": vlan, "device": device})

    def remove_vlan(self, vlan: int, device: str = "eth0") -> None:
        """Remove it."""
        self._channel.request("vlan", {"action": "remove", "vlan": vlan, "device": device})

    def add_filter(self, mac: str, device: str = "eth0") -> None:
        """Receive one more link-layer address, multicast or unicast."""
        self._channel.request("filter", {"action": "add", "mac": mac, "device": device})

    def remove_filter(self, mac: str, device: str = "eth0") -> None:
        """Receive it no more."""
        self._channel.request("filter", {"action": "remove", "mac": mac, "device": device})

    def set_interface(
        self,
        *,
        mac: str | None = None,
        promiscuous: bool | None = None,
        all_multicast: bool | None = None,
        device: str = "eth0",
    ) -> None:
        """Change the NIC's address or receive modes, as ``ip link set``; what is None stays."""
        wanted = {"promisc": promiscuous, "allmulti": all_multicast}
        parameters: dict[str, str | int] = {"device": device}
        parameters |= {key: int(value) for key, value in wanted.items() if value is not None}
        if mac is not None:
            parameters["mac"] = mac
        self._channel.request("interface", parameters, repeat_after=REPEAT)

    def set_feature(self, feature: str, on: bool, device: str = "eth0") -> None:
        """Switch an offload, as ``ethtool -K``; the names are those of :attr:`NicInfo.features`."""
        parameters: dict[str, str | int] = {"device": device, "feature": feature, "on": int(on)}
        self._channel.request("feature", parameters, repeat_after=REPEAT)

    def defer_receiving(self, wait_ms: int, device: str = "eth0") -> None:
        """Let the driver look for received packets seldom, so that the NIC's receive ring fills up.

        Each time the driver has taken what was there, it looks again so much later, with the device's interrupts off
        (napi_complete_done(), net/core/dev.c; ``gro_flush_timeout`` and ``napi_defer_hard_irqs``).

        :param wait_ms: in ms of the guest's clock; 0 for none, which holds when the wait under way is over.
        """
        self._channel.request("defer", {"device": device, "wait_us": 1000 * wait_ms}, repeat_after=REPEAT)

    def power_off(self) -> None:
        """Switch the guest off; its QEMU ends. There may be no answer."""
        with contextlib.suppress(GuestFailed, DeadlineExceeded):
            self._channel.request("poweroff", seconds=2.0)

    def _log(self, name: str, seconds: float) -> PacketLog:
        data = bytearray()
        broken = 0
        while True:
            at = len(data) // SIZE
            try:
                answer = self._channel.request(
                    "log", {"of": name, "from": at}, seconds=seconds, repeat_after=seconds / 4
                )
            except InstrumentError:
                broken += 1
                if broken > BROKEN_PIECES:
                    raise
                continue
            reply = answer.reply
            if reply.number("record_size") != SIZE or len(answer.payload) != reply.number("records") * SIZE:
                raise reply.nonsense("record_size")
            if not 0 <= reply.number("total") <= LOG_LIMIT:
                raise reply.nonsense("total")
            data += answer.payload
            if len(data) // SIZE >= reply.number("total"):
                return PacketLog(bytes(data), reply.number("overflow"))
            if not answer.payload:
                raise reply.nonsense("records")
