"""Flows, and the rate and length of a stream over them."""

from __future__ import annotations

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

    @property
    def version(self) -> int:
        return 6 if ":" in self.source else 4

    @property
    def name(self) -> str:
        """For reports: ``ipv4:20000``."""
        return f"ipv{self.version}:{self.source_port}"


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Rate and length of a stream, over all its flows.

    :param rate: packets/s.
    :param count: length in packets, :param duration_s: or in seconds.
    :raises UsageError: more packets than STAMP has numbers.
    """

    rate: float
    count: int | None = None
    duration_s: float | None = None

    def __post_init__(self) -> None:
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
    :raises UsageError: no flow.
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
