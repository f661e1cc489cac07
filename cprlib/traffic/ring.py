"""The kernel's receive ring of packet sockets, TPACKET_V3 (Documentation/networking/packet_mmap.rst).

The kernel hands a block to the reader when it is full or its retire timeout ends, and the reader returns it when done.
A reader that stalls loses nothing for about (number of blocks x retire timeout).
"""

from __future__ import annotations

import mmap
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cprlib.traffic.sockets import ACCEPT_NOTHING, attach_filter, new_socket

SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_IGNORE_OUTGOING = 23
TPACKET_V3 = 2
ETH_P_ALL = 0x0003
TP_STATUS_KERNEL = 0
TP_STATUS_USER = 1
TP_STATUS_CSUMNOTREADY = 1 << 3  # the sender left the checksum to its NIC; a receiver accepts it (CHECKSUM_PARTIAL)
TP_STATUS_CSUM_VALID = 1 << 7

_REQUEST = struct.Struct("=7I")  # tpacket_req3: block size, blocks, frame size, frames, retire ms, private, features
_STATISTICS = struct.Struct("=3I")  # tpacket_stats_v3: packets, drops, freezes of the queue
_STATUS = struct.Struct("=I")
_BLOCK_STATUS = 8  # offset in tpacket_block_desc; after it: number of packets, offset of the first
_BLOCK = struct.Struct("=2I")
#: tpacket3_hdr: offset of the next packet, seconds, nanoseconds, bytes kept, bytes sent, status, offset of the frame
PACKET = struct.Struct("=6IH")
_FRAME_SIZE = 2048  # a unit of the request only; packets in a block are contiguous


@dataclass(frozen=True, slots=True)
class RingSettings:
    """Size of a ring.

    :param blocks: number of blocks, :param block_size: bytes, a multiple of the page size.
    :param retire_ms: a block that is not full is handed over after this time.
    """

    blocks: int = 128
    block_size: int = 128 * 1024
    retire_ms: int = 20

    @property
    def byte_count(self) -> int:
        return self.blocks * self.block_size


def open_ring(interface: str, settings: RingSettings) -> socket.socket:
    """A packet socket that captures incoming frames into a ring, in the network namespace of the calling thread.

    :param interface: e.g. ``eth0``.
    :raises EnvironmentFailure: no such interface, no right, or no memory for the ring.
    """
    frames = settings.byte_count // _FRAME_SIZE
    request = _REQUEST.pack(settings.block_size, settings.blocks, _FRAME_SIZE, frames, settings.retire_ms, 0, 0)
    advice = "check that it is in this network namespace, that memory is free, and run as root or in the lab"
    with new_socket(socket.AF_PACKET, socket.SOCK_RAW, f"capture on interface {interface}", advice) as opened:
        opened.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        opened.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        opened.bind((interface, ETH_P_ALL))
        return opened


class PacketRing:
    """The reader's side of a ring.

    :param opened: from :func:`open_ring`, :param settings: the same as there.
    """

    def __init__(self, opened: socket.socket, settings: RingSettings) -> None:
        self.settings = settings
        self.socket = opened
        self.memory = mmap.mmap(opened.fileno(), settings.byte_count, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._next = 0
        self._poll = select.poll()
        self._poll.register(opened, select.POLLIN | select.POLLERR)

    def close(self) -> None:
        """Unmap the ring and close the socket. Idempotent."""
        self.memory.close()
        self.socket.close()

    def refuse_more(self) -> None:
        """Take no further packet; those in the ring remain. A packet that is refused is not in the statistics."""
        attach_filter(self.socket, ACCEPT_NOTHING)

    def wait(self, milliseconds: int) -> None:
        """Wait until a block is ready, at most this long."""
        self._poll.poll(milliseconds)

    def take(self) -> Iterator[tuple[int, int]]:
        """The blocks that are ready: number of packets, and offset of the first packet's header in :attr:`memory`.

        A block returns to the kernel when the next one is taken, even after an exception in the reader.
        """
        memory = self.memory
        for _ in range(self.settings.blocks):
            block = self._next * self.settings.block_size
            if not _STATUS.unpack_from(memory, block + _BLOCK_STATUS)[0] & TP_STATUS_USER:
                return
            packets, first = _BLOCK.unpack_from(memory, block + _BLOCK_STATUS + 4)
            try:
                yield packets, block + first
            finally:
                _STATUS.pack_into(memory, block + _BLOCK_STATUS, TP_STATUS_KERNEL)
                self._next = (self._next + 1) % self.settings.blocks

    def read_statistics(self) -> tuple[int, int]:
        """Packets received, and dropped because the ring was full, since the last call (PACKET_STATISTICS)."""
        content = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        packets, drops, _freezes = _STATISTICS.unpack(content)
        return packets, drops
