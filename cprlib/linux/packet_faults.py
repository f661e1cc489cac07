"""Deliberate packet faults: drop, duplicate or delay packets of one STAMP stream in a queueing discipline.

A fault hits packets by sequence number (every k-th, k a power of two), so a test knows the affected packets in advance;
other packets pass. Needs the kernel's u32 filter and gact, for egress also prio, for other faults than drops netem. The
lab's kernel has all of them.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from dataclasses import dataclass

from pyroute2.netlink.exceptions import NetlinkError

from cprlib.errors import EnvironmentFailure, InstrumentError, NotSupported, SkipWord, UsageError
from cprlib.linux.counters import QdiscSide, QueueCount, read_queue
from cprlib.linux.namespace import NetworkNamespace

ETH_P_IP = 0x0800
IN_THE_LAB = "run it in the lab, whose kernel has all of these queueing disciplines"
_UDP_PORTS = 20  # offset of both ports from the start of an IPv4 header without options
_PAYLOAD = 28
_ROOT, _FAULTY = 0x10000, 0x10001  # prio's handle, and the first of its two bands
_NETEM = 0x20000
_INGRESS = 0xFFFF0000  # handle of the ingress queueing discipline


class StampPacket(enum.IntEnum):
    """Packets of a STAMP stream; the value is the offset of the *sender's* number (RFC 8762 sections 4.2, 4.3)."""

    TEST = 0  # of the session-sender
    ANSWER = 24  # of the session-reflector


@dataclass(frozen=True, slots=True)
class PacketSelection:
    """Every k-th packet of a stream over IPv4.

    :param port: the stream's port at the station: source port of test packets, destination port of answers.
    :param every: k, a power of two; 1 for all packets.
    :param first: number of the first packet hit, below k.
    :raises UsageError: k is not a power of two, or ``first`` is not below it.
    """

    packet: StampPacket
    port: int
    every: int = 8
    first: int = 5  # after the packets that warm a flow up

    def __post_init__(self) -> None:
        if self.every < 1 or self.every & (self.every - 1) or not 0 <= self.first < self.every:
            raise UsageError(
                f"hit every {self.every}th packet from {self.first} on",
                "the interval is not a power of two, or the first packet is not below it",
            )

    def among(self, sent: int) -> tuple[int, ...]:
        """The numbers hit in a stream of ``sent`` packets."""
        return tuple(range(self.first, sent, self.every))

    @property
    def keys(self) -> list[str]:
        """Keys of the u32 filter: value/mask+offset, offsets from the IP header."""
        mask = self.every - 1
        at = _UDP_PORTS if self.packet is StampPacket.TEST else _UDP_PORTS + 2
        keys = ["0x11/0xff+9", f"{self.port:#06x}/0xffff+{at}"]
        # the low bytes of the number, one by one: pyroute2 takes masks by bytes
        for byte in range(4):
            shift = 8 * (3 - byte)
            part = mask >> shift & 0xFF
            if part:
                keys.append(f"{self.first >> shift & part:#04x}/{part:#04x}+{_PAYLOAD + self.packet + byte}")
        return keys


@dataclass(frozen=True, slots=True)
class PacketFault:
    """An active fault.

    :param queue: handle of the queueing discipline that counts the packets hit.
    """

    namespace: NetworkNamespace
    interface: str
    queue: int

    def count(self) -> QueueCount:
        """Packets that passed and packets that were dropped since the fault is active."""
        counted = read_queue(self.namespace, self.interface, self.queue)
        if counted is None:
            raise InstrumentError(f"count the fault at {self.interface}", "its queueing discipline is gone")
        return counted


@contextlib.contextmanager
def drop(
    namespace: NetworkNamespace, interface: str, side: QdiscSide, numbers: PacketSelection
) -> Iterator[PacketFault]:
    """Drop packets that leave or enter an interface while the body runs.

    :raises NotSupported: this kernel lacks a queueing discipline, filter or action.
    """
    with _filtered(namespace, interface, side) as queue:
        _add_filter(namespace, interface, queue, numbers, action="drop")
        yield PacketFault(namespace, interface, queue)


@contextlib.contextmanager
def disturb(
    namespace: NetworkNamespace, interface: str, numbers: PacketSelection, **netem: float
) -> Iterator[PacketFault]:
    """Pass the chosen packets that leave an interface through netem; all others bypass it.

    :param netem: ``loss``, ``duplicate`` in percent; ``delay``, ``jitter`` in microseconds (see sch_netem.c).
    :raises NotSupported: this kernel lacks a queueing discipline or filter.
    """
    with _filtered(namespace, interface, QdiscSide.EGRESS) as queue:
        _request(namespace, "add", "netem", interface, handle=_NETEM, parent=_FAULTY, **netem)
        _add_filter(namespace, interface, queue, numbers)
        yield PacketFault(namespace, interface, _NETEM)


@contextlib.contextmanager
def _filtered(namespace: NetworkNamespace, interface: str, side: QdiscSide) -> Iterator[int]:
    """Give a side of an interface a queueing discipline with filters, and remove it again; yields its handle.

    At egress two bands replace the root's queueing discipline; packets that no filter matches use the second.
    """
    if side is QdiscSide.EGRESS:
        bands = {"bands": 2, "priomap": [1] * 16}  # every priority uses the second
        _request(namespace, "add", "prio", interface, handle=_ROOT, **bands)
    else:
        _request(namespace, "add", "ingress", interface)
    try:
        yield _ROOT if side is QdiscSide.EGRESS else _INGRESS
    finally:
        with contextlib.suppress(NetlinkError, EnvironmentFailure):  # deleted with its interface
            namespace.netlink.tc("del", index=namespace.index(interface), handle=0, parent=side.value)


def _add_filter(
    namespace: NetworkNamespace, interface: str, parent: int, numbers: PacketSelection, action: str | None = None
) -> None:
    _request(
        namespace,
        "add-filter",
        "u32",
        interface,
        parent=parent,
        prio=1,
        protocol=ETH_P_IP,
        target=_FAULTY,
        keys=numbers.keys,
        **({"action": action} if action else {}),
    )


def _request(namespace: NetworkNamespace, command: str, kind: str, interface: str, **settings: object) -> None:
    try:
        namespace.netlink.tc(command, kind, namespace.index(interface), **settings)
    except NetlinkError as error:
        raise NotSupported(
            f"add {kind} to {interface}", str(error), IN_THE_LAB, word=SkipWord.NOT_IN_THIS_LAB
        ) from error
