"""The answers of the guest's agent. A guest may send anything; only values of the declared types and sizes pass."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from cprlib.codec import BadValue, decode
from cprlib.errors import InstrumentError
from cprlib.traffic.stamp import UNMEASURED_SSID
from cprlib.words import printable

GUEST_INTERFACE = "eth0"  # the first NIC, in the guest
ENTRIES_LIMIT = 4096
Number = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Text = Annotated[str, Meta(max_length=4096)]
PlainText = Annotated[str, Meta(max_length=4096, pattern=r"^[ -~]*$")]
Rss = Annotated[str, Meta(max_length=16384, pattern=r"^[0-9a-f ]*$")]
Numbers = Annotated[Mapping[str, Number], Meta(max_length=ENTRIES_LIMIT)]
Texts = Annotated[Mapping[str, Text], Meta(max_length=ENTRIES_LIMIT)]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the agent: one JSON object.

    :param command: that it answers; :param payload: the bytes behind it.
    """

    members: Mapping[str, Any]
    command: str
    payload: bytes = b""

    def read(self, kind: type[Value]) -> Value:
        """The whole answer as a record.

        :raises InstrumentError: a member is missing, has another type or is too large; likewise below.
        """
        record: Value = self._convert(kind, self.members, "")
        return record

    def list(self, key: str, kind: type[Value]) -> tuple[Value, ...]:
        entries = Annotated[tuple[kind, ...], Meta(max_length=ENTRIES_LIMIT)]  # type: ignore[valid-type]
        records: tuple[Value, ...] = self._convert(entries, self.members.get(key), key)
        return records

    def number(self, key: str) -> int:
        """A member that is a whole number of at most 64 bits."""
        value: int = self._convert(Number, self.members.get(key), key)
        return value

    def flag(self, key: str) -> bool:
        value: bool = self._convert(bool, self.members.get(key), key)
        return value

    def text(self, key: str) -> str:
        """A member that is a text; what cannot be printed is replaced."""
        value: str = self._convert(Text, self.members.get(key), key)
        return value

    def invalid(self, key: str) -> InstrumentError:
        """The error for a member with a value that makes no sense."""
        return invalid_answer(self.command, f"its {key[:80]!r} is {reprlib.repr(self.members.get(key))}")

    def _convert(self, kind: Any, value: object, key: str) -> Any:
        try:
            return decode(kind, _all_printable(value))
        except (BadValue, RecursionError) as error:
            raise invalid_answer(self.command, f"{key}: {error}" if key else str(error)) from error


def invalid_answer(command: str, happened: str) -> InstrumentError:
    return InstrumentError(f"read the guest agent's answer to {command}", happened)


def _all_printable(value: object) -> object:
    """The same JSON value with :func:`printable` texts."""
    match value:
        case str():
            return printable(value, keep="")
        case dict():
            return {_all_printable(key): _all_printable(member) for key, member in value.items()}
        case list():
            return [_all_printable(member) for member in value]
    return value


@dataclass(frozen=True, slots=True)
class Clocks:
    """The guest's clocks, in ns, read one after the other."""

    realtime_ns: Number
    monotonic_ns: Number
    boottime_ns: Number


@dataclass(frozen=True, slots=True)
class Identity(Clocks):
    """Boot and kernel of the guest, and its clocks: equal before and after an update, unless the guest rebooted."""

    boot_id: Text
    kernel: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class NicInfo:
    """One NIC as the guest sees it.

    :param flags: linux/if.h IFF_*; :param carrier: 1 with link, 0 without, -1 when down.
    :param virtio_features: one character per feature bit that driver and device agreed on, bit 0 first.
    :param features: ethtool -k: name to ``on``, ``on [fixed]`` or ``off``; without those that are always off.
    :param channels: queue pairs in use; :param channels_max: those there are.
    :param settings: rings, channels, link, coalescing and hash fields (ethtool -g, -l, -c, rx-flow-hash).
    :param rss: hash function, then indirection table and key in hexadecimal (ethtool -x); empty without RSS.
    :param counters: /sys/class/net/NAME/statistics; :param statistics: ethtool -S.
    :param queue_packets: packets by queue (``rx0``, ``tx0``, ...; netlink's qstats); empty where the kernel has none.
    :param interrupts: by vector of its virtio device: ``input.0``, ``output.0``, ``config``; ``shared`` without MSI-X.
    """

    name: Text
    mac: Text
    permanent_mac: Text = ""
    mtu: Number
    flags: Number
    carrier: Number
    carrier_changes: Number
    operstate: Text
    driver: Text
    virtio_features: Text
    features: Texts
    channels: Number
    channels_max: Number
    settings: Numbers
    rss: Rss = ""
    counters: Numbers
    statistics: Numbers
    multicast: Annotated[tuple[PlainText, ...], Meta(max_length=ENTRIES_LIMIT)]
    queue_packets: Numbers
    interrupts: Numbers = field(default_factory=dict)

    def agreed_on(self, *features: int) -> bool:
        """Whether driver and device agreed on a feature bit (VIRTIO 1.2 section 2.2), or on all of several."""
        return all(self.virtio_features.strip()[feature : feature + 1] == "1" for feature in features)


@dataclass(frozen=True, slots=True)
class NetInfo:
    """NICs and the counters of the IP stack.

    :param stack: all counters that are not 0: ``Ip.InHdrErrors`` of /proc/net/snmp, ``Ip6InHdrErrors`` of snmp6.
    """

    nics: Annotated[tuple[NicInfo, ...], Meta(max_length=ENTRIES_LIMIT)]
    stack: Numbers

    def nic(self) -> NicInfo:
        """The NIC that the tests use.

        :raises InstrumentError: the guest has none.
        """
        for nic in self.nics:
            if nic.name == GUEST_INTERFACE:
                return nic
        raise InstrumentError(f"look at the guest's {GUEST_INTERFACE}", f"it has {[nic.name for nic in self.nics]}")


@dataclass(frozen=True, slots=True)
class ReflectorSession:
    """One session: a peer's address, port and SSID; ``packets`` is the next reflector sequence number."""

    address: Text
    port: Number
    ssid: Number
    packets: Number


@dataclass(frozen=True, slots=True)
class ReflectorCounters:
    """The session-reflector's counters, in packets since its last reset.

    :param received: everything that arrived at the port, foreign packets too.
    :param short: under 44 bytes; :param truncated: too long; :param corrupt: an error estimate with multiplier 0.
    :param send_failed: answers given up.
    :param socket_drops: dropped by the kernel: the socket's buffer was full, or a checksum wrong; -1 when not known.
    :param log_overflow: packets reflected that the log had no room for.
    """

    received: Number
    reflected: Number
    short: Number
    truncated: Number
    corrupt: Number
    too_many_sessions: Number
    send_failed: Number
    socket_drops: Number
    receive_buffer: Number
    log_records: Number
    log_overflow: Number
    sessions: Annotated[tuple[ReflectorSession, ...], Meta(max_length=ENTRIES_LIMIT)]

    @property
    def peers(self) -> tuple[tuple[str, int], ...]:
        """Address and port of each session, for :func:`cprlib.guest.packet_log.reflections`.

        The port of a session that is not measured is 0, which no flow has.
        """
        return tuple(
            (session.address, 0 if session.ssid == UNMEASURED_SSID else session.port) for session in self.sessions
        )


@dataclass(frozen=True, slots=True)
class SenderStream:
    """One stream of the guest's session-sender.

    :param active: still sending; :param sent: packets, also the next sequence number.
    """

    active: bool
    source_port: Number
    sent: Number
    answers: Number
    foreign: Number
    send_icmp_errors: Number
    send_failed: Number
    socket_drops: Number


@dataclass(frozen=True, slots=True)
class ToggleResult:
    """Repeated changes of the number of queue pairs in use.

    :param changes: attempts; :param failures: those the kernel refused, the last with ``last_errno``.
    """

    changes: Number
    failures: Number
    last_errno: Number
    channels: Number


@dataclass(frozen=True, slots=True)
class TcpResult:
    """One TCP connection of the guest.

    :param role: ``source`` or ``sink``.
    :param state: ``waiting`` for a connection, ``connecting``, ``open``, ``closing``, ``done`` or ``failed``.
    :param byte_count: of content sent or received; :param crc32: of this content.
    :param longest_stall_ns: the longest time without progress between the first byte and the last.
    :param retransmissions: segments, TCP_INFO tcpi_total_retrans; :param error: errno, 0 for none.
    """

    role: Text
    state: Text
    byte_count: Number
    crc32: Number
    longest_stall_ns: Number
    retransmissions: Number
    error: Number


@dataclass(frozen=True, slots=True)
class RssSettings:
    """Receive-side scaling of a NIC, as ``ethtool -x``.

    :param key: of the hash, in hexadecimal; :param table: the queue of each entry.
    """

    key: PlainText
    table: Annotated[tuple[Number, ...], Meta(max_length=ENTRIES_LIMIT)]


@dataclass(frozen=True, slots=True)
class BoundDriver:
    """A device and the driver that was unbound from it, by their names in sysfs: ``virtio1``, ``virtio_net``."""

    name: Annotated[str, Meta(max_length=256, pattern=r"^[!-~]+$")]
    driver: Annotated[str, Meta(max_length=256, pattern=r"^[!-~]+$")]


@dataclass(frozen=True, slots=True)
class BrokenRing:
    """What a device did with a transmit queue that it refused: asked for a reset, and took chains from it."""

    needs_reset: bool
    used: Annotated[int, Meta(ge=0, le=0xFFFF)]
