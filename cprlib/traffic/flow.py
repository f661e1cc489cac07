"""Flows, and the rate and length of a stream over them."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cprlib.errors import InstrumentError, UsageError
from cprlib.traffic.stamp import MINIMUM_SIZE, STAMP_PORT

if TYPE_CHECKING:
    from cprlib.linux.topology import Address

MTU = 1500  # bytes of an IP packet, on a path without jumbo frames
LARGEST_MTU = 9000
UDP_HEADER = 8
IP_HEADER = {4: 20, 6: 40}  # without options
HIGHEST_RATE = 1_000_000  # packets/s; above it a period is shorter than sending one packet takes
# source ports of flows; the kernel chooses from 32,768 on (Documentation/networking/ip-sysctl.rst)
FIRST_PORT, LAST_PORT = 20_000, 32_767
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def _invalid(what: str, happened: str, advice: str) -> UsageError:
    return UsageError(f"measure with {what}", happened, advice)


@dataclass(frozen=True, slots=True)
class Flow:
    """One STAMP session: packets with one pair of addresses and ports, which use one queue of the guest's NIC.

    :param source_mac, target_mac: lower case, with colons.
    :param source, target: addresses of one family.
    :param size: bytes of the UDP payload, 44 to what fits into an MTU of 9000.
    :param dscp: differentiated services code point, 0 to 63 (RFC 2474).
    :param ssid: STAMP session identifier (RFC 8972), 0 for none.
    :raises UsageError: a value is out of range.
    """

    source_mac: str
    target_mac: str
    source: str
    target: str
    source_port: int
    target_port: int = STAMP_PORT
    size: int = MINIMUM_SIZE
    dscp: int = 0
    ssid: int = 0

    def __post_init__(self) -> None:
        for mac in (self.source_mac, self.target_mac):
            if not _MAC.fullmatch(mac):
                raise _invalid(f"MAC address {mac!r}", "not six bytes in hex", "write it like 52:54:00:75:00:01")
        try:
            families = {ipaddress.ip_address(address).version for address in (self.source, self.target)}
        except ValueError as error:
            raise _invalid(f"addresses {self.source} and {self.target}", str(error), "correct them") from error
        if len(families) != 1:
            raise _invalid(f"addresses {self.source} and {self.target}", "one is IPv4, one IPv6", "use one family")
        for what, value, least, most in (
            ("UDP port", self.source_port, 1, 65535),
            ("UDP port", self.target_port, 1, 65535),
            ("DSCP", self.dscp, 0, 63),
            ("SSID", self.ssid, 0, 65535),
        ):
            if not least <= value <= most:
                raise _invalid(f"{what} {value}", f"not between {least} and {most}", "choose another")
        if self.source_port == self.target_port:
            raise _invalid(f"source port {self.source_port}", "equal to the reflector's", "choose another source port")
        if not MINIMUM_SIZE <= self.size <= self.largest_size:
            raise _invalid(
                f"packets of {self.size} bytes",
                f"a STAMP packet over IPv{self.version} has {MINIMUM_SIZE} to {self.largest_size} bytes",
                "choose a size in between",
            )

    @property
    def version(self) -> int:
        return 6 if ":" in self.source else 4

    @property
    def largest_size(self) -> int:
        """Largest UDP payload of one packet, in bytes."""
        return LARGEST_MTU - IP_HEADER[self.version] - UDP_HEADER

    @property
    def name(self) -> str:
        """For reports: ``ipv4:20000``."""
        return f"ipv{self.version}:{self.source_port}"


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Rate and length of a stream, over all its flows.

    :param rate: packets/s.
    :param count: length in packets, :param duration_s: or in seconds.
    :param burst: packets that may be sent back to back to catch up after a delay. Packets beyond that are sent later,
        because a burst could overflow a queue by itself.
    :raises UsageError: rate or length is not above zero, or not exactly one of count and duration is given.
    """

    rate: float
    count: int | None = None
    duration_s: float | None = None
    burst: int = 16

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and 0 < self.rate <= HIGHEST_RATE):
            raise _invalid(
                f"a rate of {self.rate} packets/s", f"not above 0 and up to {HIGHEST_RATE}", "choose another rate"
            )
        if (self.count is None) == (self.duration_s is None):
            raise _invalid("this stream", "it needs either a count or a duration", "give one of them")
        if self.count is not None and self.count <= 0:
            raise _invalid(f"{self.count} packets", "not above 0", "send at least one")
        if self.duration_s is not None and not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise _invalid(f"a duration of {self.duration_s} s", "not above 0", "choose a longer one")
        if self.burst < 1:
            raise _invalid(f"bursts of {self.burst} packets", "not above 0", "allow at least one")
        if self.packets >= 1 << 32:
            raise _invalid(f"{self.packets} packets", "STAMP's sequence numbers have 32 bits", "measure for less long")

    @property
    def packets(self) -> int:
        if self.count is not None:
            return self.count
        assert self.duration_s is not None
        return max(1, round(self.rate * self.duration_s))

    @property
    def period_ns(self) -> float:
        return 1e9 / self.rate


def flows_between(
    source: Address | None = None,
    target: Address | None = None,
    *,
    versions: Sequence[int] = (4,),
    count: int = 1,
    first_port: int = FIRST_PORT,
    size: int = MINIMUM_SIZE,
    dscp: int = 0,
) -> tuple[Flow, ...]:
    """Flows between two ends, each with its own source port.

    :param source, target: the station and the guest by default.
    :param versions: IP versions, used in turn: ``(4,)``, ``(6,)`` or ``(4, 6)``.
    :param count: number of flows; several, so that every queue of a multi-queue NIC carries some.
    :param first_port: source port of the first flow. Streams to one reflector must not share ports, because a stateful
        reflector continues to count.
    :raises UsageError: no flow, or as :class:`Flow`.
    """
    from cprlib.linux.topology import GUEST, STATION  # noqa: PLC0415 - the worker process has no netlink

    source, target = source or STATION, target or GUEST
    if count < 1 or not versions or not set(versions) <= {4, 6}:
        raise _invalid(f"{count} flows over IP versions {tuple(versions)}", "no flow", "request at least one")
    flows = []
    for number in range(count):
        version = versions[number % len(versions)]
        flows.append(
            Flow(
                source_mac=source.mac,
                target_mac=target.mac,
                source=source.ipv6 if version == 6 else source.ipv4,
                target=target.ipv6 if version == 6 else target.ipv4,
                source_port=first_port + number,
                size=size,
                dscp=dscp,
                ssid=number + 1,
            )
        )
    return tuple(flows)


class PortAllocator:
    """Gives each flow of a case ports of its own: a stateful reflector counts by session (RFC 8762, 4.3)."""

    def __init__(self) -> None:
        self._next = FIRST_PORT

    def take(self, count: int = 1) -> int:
        """Reserve ports that follow one another.

        :returns: the first one.
        :raises InstrumentError: fewer ports are left.
        """
        first = self._next
        if first + count - 1 > LAST_PORT:
            raise InstrumentError(
                f"reserve {count} ports", f"{LAST_PORT - first + 1} are left", "split the test into two cases"
            )
        self._next += count
        return first
