"""Faults on purpose: packets of a test stream dropped, copied or delayed in one queue, and counted there.

Which packets it hits is chosen by number (every k-th, k a power of two), so that a test knows each of them beforehand;
packets of others pass. Needs the kernel's u32 filter and gact, for queues on the way out also prio, for what is not a
plain drop netem (all of them are in the lab's kernel).
"""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pyroute2.netlink.exceptions import NetlinkError

from cprlib.errors import EnvironmentFailure, InstrumentError, NotSupported, UsageError
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.qdisc_drops import QueueCount, Side, read_queue

ETH_P_IP = 0x0800
NOT_HERE = "not-in-this-lab"  # what policies call such a skip
IN_THE_LAB = "run it in the lab, whose kernel has all of these queues"
_UDP_PORTS = 20  # offset of both ports from the IPv4 header on, which has no options
_PAYLOAD = 28
_ROOT, _FAULTY = 0x10000, 0x10001  # prio's handle, and the first of its two bands
_NETEM = 0x20000
_INGRESS = 0xFFFF0000  # handle of the ingress queue
#: struct tc_prio_qopt (linux/pkt_sched.h): two bands; every priority goes to the second.
_PRIO_OPTIONS = struct.pack("=i16B", 2, *([1] * 16))


class Packet(enum.IntEnum):
    """Which packets of a STAMP stream; the value is where the *sender's* number stands (RFC 8762 sections 4.2, 4.3)."""

    TEST = 0  # of the session-sender
    ANSWER = 24  # of the session-reflector


@dataclass(frozen=True, slots=True)
class Numbers:
    """Every k-th packet of a stream over IPv4.

    :param port: the stream's port at the station: source port of test packets, destination port of answers.
    :param every: k, a power of two; 1 for all packets.
    :param first: number of the first one hit, below k.
    :raises UsageError: k is no power of two, or the first is not below it.
    """

    packet: Packet
    port: int
    every: int = 8
    first: int = 5  # not among the few that warm a flow up

    def __post_init__(self) -> None:
        if self.every < 1 or self.every & (self.every - 1) or not 0 <= self.first < self.every:
            raise UsageError(
                f"hit every {self.every}th packet from {self.first} on", "not a power of two, or begun too late"
            )

    def among(self, sent: int) -> tuple[int, ...]:
        """The numbers hit among so many packets."""
        return tuple(range(self.first, sent, self.every))

    @property
    def keys(self) -> list[str]:
        """As the u32 filter wants it: value/mask+offset, from the IP header on."""
        mask = self.every - 1
        at = _UDP_PORTS if self.packet is Packet.TEST else _UDP_PORTS + 2
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
    """A fault that is in place.

    :param queue: handle of the queue that counts what is hit.
    """

    namespace: NetworkNamespace
    interface: str
    queue: int

    def count(self) -> QueueCount:
        """What the queue has let through and dropped since the fault is there."""
        counted = read_queue(self.namespace, self.interface, self.queue)
        if counted is None:
            raise InstrumentError(f"count the fault at {self.interface}", "its queue is gone")
        return counted


@contextlib.contextmanager
def drop(namespace: NetworkNamespace, interface: str, side: Side, numbers: Numbers) -> Iterator[PacketFault]:
    """Drop packets as they leave or enter an interface, as long as the body runs.

    :raises NotSupported: this kernel has not got what is needed.
    """
    with contextlib.ExitStack() as stack:
        if side is Side.EGRESS:
            stack.enter_context(_prio(namespace, interface))
            parent = _ROOT
        else:
            stack.enter_context(_ingress(namespace, interface))
            parent = _INGRESS
        _add_filter(namespace, interface, parent, numbers, action="drop")
        yield PacketFault(namespace, interface, parent)


@contextlib.contextmanager
def disturb(namespace: NetworkNamespace, interface: str, numbers: Numbers, **netem: float) -> Iterator[PacketFault]:
    """Let netem handle packets that leave an interface; all others pass beside it.

    :param netem: ``loss``, ``duplicate`` in percent; ``delay``, ``jitter`` in microseconds (see sch_netem.c).
    :raises NotSupported: this kernel has not got what is needed.
    """
    with _prio(namespace, interface):
        _request(namespace, "add", "netem", interface, handle=_NETEM, parent=_FAULTY, **netem)
        _add_filter(namespace, interface, _ROOT, numbers)
        yield PacketFault(namespace, interface, _NETEM)


@contextlib.contextmanager
def _prio(namespace: NetworkNamespace, interface: str) -> Iterator[None]:
    """Two bands in place of the interface's own queue; what no filter chooses takes the second."""
    _add_prio(namespace, namespace.index(interface))
    try:
        yield
    finally:
        _remove(namespace, interface, Side.EGRESS)


@contextlib.contextmanager
def _ingress(namespace: NetworkNamespace, interface: str) -> Iterator[None]:
    """A queue on the way in, which has filters only."""
    _request(namespace, "add", "ingress", interface)
    try:
        yield
    finally:
        _remove(namespace, interface, Side.INGRESS)


def _remove(namespace: NetworkNamespace, interface: str, side: Side) -> None:
    with contextlib.suppress(NetlinkError, EnvironmentFailure):  # it went with its interface
        namespace.netlink.tc("del", index=namespace.index(interface), handle=0, parent=side.value)


def _add_prio(namespace: NetworkNamespace, index: int) -> None:
    """Ask the kernel for it by hand: pyroute2 does not know prio's options (linux/rtnetlink.h, linux/netlink.h)."""
    kind, options, new_queue, flags = 1, 2, 36, 0x605  # TCA_KIND, TCA_OPTIONS, RTM_NEWQDISC, REQUEST|ACK|EXCL|CREATE
    body = struct.pack("=BxxxiIII", 0, index, _ROOT, Side.EGRESS.value, 0)
    for number, value in ((kind, b"prio\0"), (options, _PRIO_OPTIONS)):
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    with namespace.entered():
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    with opened:
        opened.send(struct.pack("=IHHII", 16 + len(body), new_queue, flags, 1, 0) + body)
        (error,) = struct.unpack_from("=i", opened.recv(65536), 16)
    if error:
        raise NotSupported("put prio on an interface", os.strerror(-error), IN_THE_LAB, word=NOT_HERE)


def _add_filter(
    namespace: NetworkNamespace, interface: str, parent: int, numbers: Numbers, action: str | None = None
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
        raise NotSupported(f"put {kind} on {interface}", str(error), IN_THE_LAB, word=NOT_HERE) from error
