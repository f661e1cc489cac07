"""Frames other than test packets, as they arrive at the station: by sender, kind and time.

A packet socket with a filter keeps them in its buffer until they are read, so nothing runs meanwhile. UDP and TCP are
left out, and fragments of them: the measured stream and the background traffic have counts of their own.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import STATION_INTERFACE
from cprlib.traffic.frames import FrameClass, classify
from cprlib.traffic.ring import ETH_P_ALL, PACKET_IGNORE_OUTGOING, PACKET_STATISTICS, SOL_PACKET
from cprlib.traffic.sockets import SO_RCVBUFFORCE, SO_TIMESTAMPNS, attach_filter, kernel_time_ns, new_socket

BUFFER = 8 << 20  # bytes: about 10,000 small frames
KEPT = 128  # bytes of each frame
_LOAD_HALF, _LOAD_BYTE, _JUMP, _EQUAL, _RETURN = 0x28, 0x30, 0x05, 0x15, 0x06  # linux/bpf_common.h
_NOT_UDP_OR_TCP = (
    (_LOAD_HALF, 0, 0, 12),  # the Ethernet type
    (_EQUAL, 0, 2, 0x0800),
    (_LOAD_BYTE, 0, 0, 23),  # IPv4: protocol
    (_JUMP, 0, 0, 4),
    (_EQUAL, 0, 6, 0x86DD),
    (_LOAD_BYTE, 0, 0, 20),  # IPv6: next header
    (_EQUAL, 0, 1, socket.IPPROTO_FRAGMENT),
    (_LOAD_BYTE, 0, 0, 54),  # what the fragment is of
    (_EQUAL, 1, 0, socket.IPPROTO_UDP),
    (_EQUAL, 0, 1, socket.IPPROTO_TCP),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, KEPT),
)
_STATISTICS = struct.Struct("=2I")  # tpacket_stats: packets, drops
_ALL_NODES = bytes.fromhex("333300000001")
_NEIGHBOUR_ADVERTISEMENT = 136  # RFC 4861 section 4.4


@dataclass(frozen=True, slots=True)
class OtherFrame:
    """A frame other than a test packet.

    :param time_ns: CLOCK_REALTIME, by the kernel.
    :param sender: source MAC address.
    :param announces: a gratuitous ARP (RFC 5944 section 4.6), an unsolicited neighbour advertisement, or a RARP.
    """

    time_ns: int
    sender: str
    kind: FrameClass
    announces: bool


def other_frame(time_ns: int, frame: bytes) -> OtherFrame:
    """Describe a frame; accepts arbitrary bytes."""
    kind = classify(frame)
    announces = kind is FrameClass.RARP
    if kind is FrameClass.ARP:
        announces = len(frame) >= 42 and frame[28:32] == frame[38:42]
    elif kind is FrameClass.NEIGHBOUR_DISCOVERY:
        announces = frame[:6] == _ALL_NODES and frame[54] == _NEIGHBOUR_ADVERTISEMENT
    return OtherFrame(time_ns, frame[6:12].hex(":"), kind, announces)


class OtherFrames:
    """Receives the frames from its construction until it is closed; a context manager.

    :param namespace: the station's.
    :raises EnvironmentFailure: no such interface, or no right to open packet sockets.
    """

    def __init__(self, namespace: NetworkNamespace, interface: str = STATION_INTERFACE) -> None:
        self._frames: list[OtherFrame] = []
        self._dropped = 0
        with (
            namespace.entered(),
            new_socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, f"listen on {interface}") as opened,
        ):
            attach_filter(opened, _NOT_UDP_OR_TCP)
            opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            with contextlib.suppress(PermissionError):  # else the usual buffer, and what it dropped is counted
                opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            opened.bind((interface, ETH_P_ALL))
            self._socket = opened

    def __enter__(self) -> OtherFrames:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read_dropped(self) -> int:
        """Frames that the socket's buffer had no room for, so far."""
        self._dropped += _STATISTICS.unpack(self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size))[1]
        return self._dropped

    def read(self) -> tuple[OtherFrame, ...]:
        """All frames so far, in order of arrival."""
        with contextlib.suppress(BlockingIOError):
            while True:
                content, ancillary, _, _ = self._socket.recvmsg(KEPT, 128)
                time_ns = kernel_time_ns(ancillary)
                if time_ns is not None and len(content) >= 14:
                    self._frames.append(other_frame(time_ns, content))
        return tuple(self._frames)


def between(frames: Iterable[OtherFrame], first_ns: int, last_ns: int) -> tuple[OtherFrame, ...]:
    """The frames of a period, without its end."""
    return tuple(item for item in frames if first_ns <= item.time_ns < last_ns)
