"""What the guest's agent says, checked: a guest may say anything, and only what makes sense gets past here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cprlib.errors import InstrumentError

TEXT_LIMIT = 4096
LIST_LIMIT = 4096
NUMBER_LIMIT = 1 << 64
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Reply:
    """One JSON object of the agent, with checked access to its members."""

    members: Mapping[str, Any]
    about: str

    def number(self, key: str) -> int:
        """An integer member.

        :raises InstrumentError: it is missing, no integer, or beyond 64 bits; likewise below.
        """
        return _number(self.members.get(key), self, key)

    def flag(self, key: str) -> bool:
        """A boolean member."""
        value = self.members.get(key)
        if not isinstance(value, bool):
            raise self.nonsense(key)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string member, printable, at most :data:`TEXT_LIMIT` characters."""
        value = self.members.get(key, default)
        if not isinstance(value, str) or len(value) > TEXT_LIMIT:
            raise self.nonsense(key)
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)

    def numbers(self, key: str) -> dict[str, int]:
        """A member that is an object of integers: counters."""
        return {name: _number(value, self, f"{key}.{name}") for name, value in self._object(key).items()}

    def texts(self, key: str) -> dict[str, str]:
        """A member that is an object of strings."""
        inner = Reply(self._object(key), f"{self.about}.{key}")
        return {name: inner.text(name) for name in inner.members}

    def objects(self, key: str, make: Callable[[Reply], Value]) -> tuple[Value, ...]:
        """A member that is a list of objects, each made into a value."""
        return tuple(make(Reply(_object(value, self, key), f"{self.about}.{key}")) for value in self._list(key))

    def strings(self, key: str) -> tuple[str, ...]:
        """A member that is a list of strings."""
        values = self._list(key)
        if not all(isinstance(value, str) and len(value) <= TEXT_LIMIT and value.isprintable() for value in values):
            raise self.nonsense(key)
        return tuple(values)

    def nonsense(self, key: str) -> InstrumentError:
        """The error for a member that is missing or makes no sense."""
        said = repr(self.members.get(key))[:80]
        return InstrumentError(f"read the guest agent's answer to {self.about}", f"its {key[:80]!r} is {said}")

    def _object(self, key: str) -> Mapping[str, Any]:
        return _object(self.members.get(key), self, key)

    def _list(self, key: str) -> list[Any]:
        value = self.members.get(key)
        if not isinstance(value, list) or len(value) > LIST_LIMIT:
            raise self.nonsense(key)
        return value


def _number(value: object, reply: Reply, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -NUMBER_LIMIT < value < NUMBER_LIMIT:
        raise reply.nonsense(key)
    return value


def _object(value: object, reply: Reply, key: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(value) > LIST_LIMIT:
        raise reply.nonsense(key)
    return value


@dataclass(frozen=True, slots=True)
class Clocks:
    """The guest's clocks, in ns, read one after the other."""

    realtime_ns: int
    monotonic_ns: int
    boottime_ns: int

    @classmethod
    def of(cls, reply: Reply) -> Clocks:
        """From an answer."""
        return cls(reply.number("realtime_ns"), reply.number("monotonic_ns"), reply.number("boottime_ns"))


@dataclass(frozen=True, slots=True)
class Identity:
    """Which boot of which kernel this is: equal before and after an update, or the guest was rebooted."""

    boot_id: str
    kernel: str
    processors: int
    clocksource: str
    command_line: str
    clocks: Clocks

    @classmethod
    def of(cls, reply: Reply) -> Identity:
        """From an answer."""
        return cls(
            reply.text("boot_id"),
            reply.text("kernel"),
            reply.number("processors"),
            reply.text("clocksource"),
            reply.text("command_line"),
            Clocks.of(reply),
        )


@dataclass(frozen=True, slots=True)
class NicInfo:
    """One NIC as the guest sees it.

    :param flags: linux/if.h IFF_*; :param carrier: 1 with link, 0 without, -1 when down.
    :param virtio_features: one character per feature bit, bit 0 first: what driver and device agreed on.
    :param features: ethtool -k: name to ``on``, ``on [fixed]`` or ``off``; those it can never have are left out.
    :param channels: queue pairs in use; :param channels_max: those there are.
    :param counters: /sys/class/net/NAME/statistics; :param statistics: ethtool -S.
    :param queue_packets: packets by queue (``rx0``, ``tx0``, ...; netlink's qstats); empty where it is not told.
    """

    name: str
    mac: str
    permanent_mac: str
    mtu: int
    flags: int
    carrier: int
    carrier_changes: int
    operstate: str
    driver: str
    virtio_features: str
    features: Mapping[str, str]
    channels: int
    channels_max: int
    counters: Mapping[str, int]
    statistics: Mapping[str, int]
    multicast: tuple[str, ...]
    queue_packets: Mapping[str, int]

    @classmethod
    def of(cls, reply: Reply) -> NicInfo:
        """From an answer's part."""
        return cls(
            name=reply.text("name"),
            mac=reply.text("mac"),
            permanent_mac=reply.text("permanent_mac", ""),
            mtu=reply.number("mtu"),
            flags=reply.number("flags"),
            carrier=reply.number("carrier"),
            carrier_changes=reply.number("carrier_changes"),
            operstate=reply.text("operstate"),
            driver=reply.text("driver"),
            virtio_features=reply.text("virtio_features"),
            features=reply.texts("features"),
            channels=reply.number("channels"),
            channels_max=reply.number("channels_max"),
            counters=reply.numbers("counters"),
            statistics=reply.numbers("statistics"),
            multicast=reply.strings("multicast"),
            queue_packets=reply.numbers("queue_packets"),
        )


@dataclass(frozen=True, slots=True)
class NetInfo:
    """NICs and the counters of the IP stack (names as in /proc/net/snmp and snmp6, without ``Udp6``).

    :param socket_drops: drops per local UDP port, over both IP versions.
    :param softnet: packets, dropped and time_squeeze over all processors.
    """

    nics: tuple[NicInfo, ...]
    udp: Mapping[str, int]
    udp6: Mapping[str, int]
    socket_drops: Mapping[int, int]
    softnet: Mapping[str, int]

    @classmethod
    def of(cls, reply: Reply) -> NetInfo:
        """From an answer."""
        drops: dict[int, int] = {}
        for key in ("sockets", "sockets6"):
            for port, count in reply.objects(key, lambda part: (part.number("port"), part.number("drops"))):
                drops[port] = drops.get(port, 0) + count
        return cls(
            reply.objects("nics", NicInfo.of),
            reply.numbers("udp"),
            reply.numbers("udp6"),
            drops,
            reply.numbers("softnet"),
        )

    def nic(self, name: str = "eth0") -> NicInfo:
        """The NIC of a name.

        :raises InstrumentError: the guest has none.
        """
        for nic in self.nics:
            if nic.name == name:
                return nic
        raise InstrumentError(f"look at the guest's {name}", f"it has {[nic.name for nic in self.nics]}")
