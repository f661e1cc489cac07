"""A bridge in user space that harms packets on purpose and knows which: stands in for netem where there is none."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
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
class Harm:
    """What happens to test packets of one direction; ``every`` counts them from 1.

    :param drop, copy: what happens to each ``every``-th packet.
    :param hold: each ``every``-th packet comes after so many later ones.
    """

    every: int
    drop: bool = False
    copy: int = 0
    hold: int = 0


@dataclass(slots=True)
class Harmed:
    """What was done, by the number that the packet carries (the sender's forward, the reflector's back)."""

    dropped: list[int] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)


class Forwarder:
    """Passes frames between two interfaces from a thread."""

    def __init__(self, middle: NetworkNamespace, harms: dict[Direction, Harm], protocol: int) -> None:
        self.harms = harms
        self.protocol = protocol
        self.harmed = {direction: Harmed() for direction in Direction}
        self._counts = dict.fromkeys(Direction, 0)
        self._held: dict[Direction, list[tuple[int, bytes]]] = {direction: [] for direction in Direction}
        with middle.entered():
            self.left, self.right = (self._open(name) for name in ("left", "right"))
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="forwarder", daemon=True)

    @staticmethod
    def _open(interface: str) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)  # checksums and segments that are still to be made
        opened.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        opened.bind((interface, ETH_P_ALL))
        return opened

    def __enter__(self) -> Forwarder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        for opened in (self.left, self.right, self._stopped):
            opened.close()

    def _run(self) -> None:
        poll = select.poll()
        ways = {
            self.left.fileno(): (self.left, self.right, Direction.FORWARD),
            self.right.fileno(): (self.right, self.left, Direction.RETURN),
        }
        for descriptor in (*ways, self._stopped.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor not in ways:
                    return
                source, target, direction = ways[descriptor]
                data = source.recv(VNET_HEADER + (1 << 16))
                for frame in self._harm(data, direction):
                    target.send(frame)

    def _harm(self, data: bytes, direction: Direction) -> list[bytes]:
        """What to send instead of a frame; each begins with a virtio-net header."""
        harm, frame = self.harms.get(direction), data[VNET_HEADER:]
        protocol, offset = _OFFSETS.get(frame[12:14], (0, 0))
        if harm is None or len(frame) < 86 or not offset or frame[protocol] != self.protocol:
            return [data]
        (sequence,) = struct.unpack_from("!I", frame, offset)
        self._counts[direction] += 1
        number = self._counts[direction]
        held = self._held[direction]
        due = [late for moment, late in held if moment <= number]
        self._held[direction] = held = [entry for entry in held if entry[0] > number]
        if number % harm.every:
            return [data, *due]
        done = self.harmed[direction]
        if harm.drop:
            done.dropped.append(sequence)
            return due
        if harm.hold:
            done.held.append(sequence)
            held.append((number + harm.hold, data))
            return due
        done.copied.extend([sequence] * harm.copy)
        return [data] * (1 + harm.copy) + due


@contextlib.contextmanager
def harming_path(harms: dict[Direction, Harm], *, protocol: int = _UDP) -> Iterator[tuple[Pair, Forwarder]]:
    """A station and a guest with the forwarder between them; the test is skipped where that cannot be had."""
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
        yield Pair(station, guest), stack.enter_context(Forwarder(middle, harms, protocol))
