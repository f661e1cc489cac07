"""A bridge in user space that drops, copies or delays packets and records which; it replaces netem where absent."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from cprlib.errors import EnvironmentFailure
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import GUEST, STATION, disable_ipv6
from cprlib.traffic.figures import Direction
from cprlib.traffic.ring import ETH_P_ALL, PACKET_IGNORE_OUTGOING, SOL_PACKET

from .veth import INTERFACE, Pair, configure, require_root

#: by Ethernet type: offset of the protocol, and of the STAMP sequence number
_OFFSETS = {b"\x08\x00": (23, 42), b"\x86\xdd": (20, 62)}
_UDP = 17
PACKET_VNET_HDR = 15  # linux/if_packet.h
VNET_HEADER = 10  # bytes of struct virtio_net_hdr


@dataclass(frozen=True, slots=True)
class PathFault:
    """A fault of every k-th test packet of one direction, counted from 1.

    :param every: k.
    :param copy: number of copies.
    :param hold: number of later packets that overtake it.
    :param seconds: the time that the bridge takes for it, in which others wait.
    """

    every: int
    drop: bool = False
    copy: int = 0
    hold: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Faults:
    """The packets affected, by their sequence number (the sender's forward, the reflector's on return)."""

    dropped: list[int] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)


class FaultyBridge:
    """Forwards frames between two interfaces, in a thread."""

    def __init__(self, middle: NetworkNamespace, faults: dict[Direction, PathFault], protocol: int) -> None:
        self.faults = faults
        self.protocol = protocol
        self.applied = {direction: Faults() for direction in Direction}
        self._counts = dict.fromkeys(Direction, 0)
        self._held: dict[Direction, list[tuple[int, bytes]]] = {direction: [] for direction in Direction}
        with middle.entered():
            self.left, self.right = (self._open(name) for name in ("left", "right"))
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="bridge", daemon=True)

    @staticmethod
    def _open(interface: str) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)  # offloaded checksums and segments
        opened.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        opened.bind((interface, ETH_P_ALL))
        return opened

    def __enter__(self) -> FaultyBridge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        for opened in (self.left, self.right, self._stopped):
            opened.close()

    def _run(self) -> None:
        poll = select.poll()
        ports = {
            self.left.fileno(): (self.left, self.right, Direction.FORWARD),
            self.right.fileno(): (self.right, self.left, Direction.RETURN),
        }
        for descriptor in (*ports, self._stopped.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor not in ports:
                    return
                source, target, direction = ports[descriptor]
                data = source.recv(VNET_HEADER + (1 << 16))
                for frame in self._apply(data, direction):
                    target.send(frame)

    def _apply(self, data: bytes, direction: Direction) -> list[bytes]:
        """The frames to send instead of a frame; each begins with a virtio-net header."""
        fault, frame = self.faults.get(direction), data[VNET_HEADER:]
        protocol, offset = _OFFSETS.get(frame[12:14], (0, 0))
        if fault is None or len(frame) < 86 or not offset or frame[protocol] != self.protocol:
            return [data]
        (sequence,) = struct.unpack_from("!I", frame, offset)
        self._counts[direction] += 1
        number = self._counts[direction]
        held = self._held[direction]
        due = [late for due_number, late in held if due_number <= number]
        self._held[direction] = held = [entry for entry in held if entry[0] > number]
        if number % fault.every:
            return [data, *due]
        time.sleep(fault.seconds)
        done = self.applied[direction]
        if fault.drop:
            done.dropped.append(sequence)
            return due
        if fault.hold:
            done.held.append(sequence)
            held.append((number + fault.hold, data))
            return due
        done.copied.extend([sequence] * fault.copy)
        return [data] * (1 + fault.copy) + due


@contextlib.contextmanager
def faulty_path(faults: dict[Direction, PathFault], *, protocol: int = _UDP) -> Iterator[tuple[Pair, FaultyBridge]]:
    """A station and a guest, joined by the bridge; the test is skipped where namespaces are unavailable."""
    require_root()
    with contextlib.ExitStack() as stack:
        try:
            station, middle, guest = (
                stack.enter_context(NetworkNamespace(name)) for name in ("station", "middle", "guest")
            )
            for side, end in (("left", station), ("right", guest)):
                peer = {"ifname": INTERFACE, "net_ns_fd": end.descriptor}
                middle.netlink.link("add", ifname=side, kind="veth", peer=peer)
                disable_ipv6(middle, side)
                middle.netlink.link("set", index=middle.index(side), state="up")
            configure(station, STATION, GUEST)
            configure(guest, GUEST, STATION)
        except EnvironmentFailure as error:
            pytest.skip(error.one_line())
        yield Pair(station, guest), stack.enter_context(FaultyBridge(middle, faults, protocol))
