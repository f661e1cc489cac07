"""The capture: a thread that reads a receive ring, records the answers of the flows and counts all other frames.

A packet socket also gets what the kernel's stack drops for a bad checksum. Such an answer is not received: it is
counted apart, by the rules of the stack (``udp_lib_checksum_complete()``, include/net/udp.h).

No single frame can end the thread: a block that cannot be read is counted as a fault of the instrument. More than
:data:`FAULTS_LIMIT` of them end the capture.
"""

from __future__ import annotations

import ipaddress
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cprlib.linux.libc import change_priority
from cprlib.traffic.flow import IP_HEADER, UDP_HEADER, Flow
from cprlib.traffic.frames import ETHERNET_HEADER, IPV4, IPV6, UDP, FrameClass, RawFrame, classify
from cprlib.traffic.packet_records import ArrivalColumns
from cprlib.traffic.ring import PACKET, TP_STATUS_CSUM_VALID, TP_STATUS_CSUMNOTREADY, PacketRing
from cprlib.traffic.stamp import UNMEASURED_SSID

PRIORITY = 10  # below the sender
WAIT_MS = 50
IDLE_READS = 2  # without a block, before the capture ends
FAULTS_LIMIT = 1000
BUFFERED_FRAMES = 200_000  # raw frames kept for the pcap

_TYPE = 12  # offset of the Ethernet type
# From the Ethernet type on: version and header length, fragments, protocol, addresses and ports, UDP length, STAMP.
_V4 = struct.Struct("!2xB5xHxB2x12sH2xIQ2xHQIQ")
_V6 = struct.Struct("!2x6xBx36sH2xIQ2xHQIQ")
_NO_FRAGMENT, _PLAIN_IPV4 = 0x3FFF, 0x45
_UDP_AND_STAMP = 8 + 44
# Offsets in a frame.
_V4_HEADER, _V4_ADDRESSES, _V4_UDP = slice(14, 34), 26, 34
_V6_ADDRESSES, _V6_UDP = 22, 54

Append = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """The capture's own account.

    :param answers: packets of the flows that have the format and the size of an answer.
    :param others: other frames by :class:`FrameClass`.
    :param bad_checksums: answers that the stack drops: the checksum of UDP or of the IPv4 header is wrong.
    :param kernel_packets: frames that reached the socket.
    :param kernel_drops: of these, dropped because the ring was full.
    :param faults: blocks that could not be read; ``notes`` has the errors.
    """

    answers: int
    others: Mapping[str, int]
    bad_checksums: int
    kernel_packets: int
    kernel_drops: int
    faults: int
    notes: tuple[str, ...] = ()


class StampCapture:
    """Captures the answers of flows from a ring; a context manager that stops the thread.

    :param ring: closed with this object.
    :param flows: as sent; addresses and ports of the answers are exchanged.
    :param keep_frames: number of raw frames of any kind to keep for a pcap, the latest ones.
    """

    def __init__(self, ring: PacketRing, flows: Sequence[Flow], *, keep_frames: int = 0) -> None:
        self.columns = tuple(ArrivalColumns() for _ in flows)
        self.frames: deque[RawFrame] = deque(maxlen=keep_frames)
        self._others: Counter[FrameClass] = Counter()
        self._bad_checksums = 0
        self._faults = 0
        self._notes: list[str] = []
        self._kernel_packets = self._kernel_drops = 0
        self._flows: dict[bytes, tuple[int, tuple[Append, ...]]] = {}  # UDP length of an answer, and its columns
        for flow, columns in zip(flows, self.columns, strict=True):
            appends = (
                columns.sender_sequence.append,
                columns.reflector_sequence.append,
                columns.received_ns.append,
                columns.t1.append,
                columns.t2.append,
                columns.t3.append,
            )
            self._flows[_answer_key(flow)] = UDP_HEADER + flow.size, appends  # the same size (RFC 8762 section 4.3)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stamp-capture", daemon=True)
        self._ring = ring

    def __enter__(self) -> StampCapture:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._ring.close()  # the records remain

    def start(self) -> None:
        """Begin to read; frames that arrived since construction wait in the ring."""
        self._thread.start()

    def stop(self) -> None:
        """Read the rest of the ring, then end the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def report(self) -> CaptureReport:
        """The capture's account, after :meth:`stop`."""
        return CaptureReport(
            answers=sum(map(len, self.columns)),
            others={kind.value: number for kind, number in sorted(self._others.items())},
            bad_checksums=self._bad_checksums,
            kernel_packets=self._kernel_packets,
            kernel_drops=self._kernel_drops,
            faults=self._faults,
            notes=tuple(self._notes),
        )

    def _run(self) -> None:
        change_priority(PRIORITY)
        while not self._stop.is_set() and self._faults <= FAULTS_LIMIT:
            self._read(WAIT_MS)
        # A block that is not full arrives after the retire timeout: wait twice as long for the last one.
        last_ms = 2 * self._ring.settings.retire_ms
        self._read(last_ms)
        self._ring.refuse_more()  # else a flood of frames would keep this thread; what is refused is not counted
        idle = 0
        while idle < IDLE_READS:
            idle = 0 if self._read(last_ms) else idle + 1

    def _read(self, wait_ms: int) -> int:
        """Wait for blocks, and read them; returns how many."""
        try:
            self._ring.wait(wait_ms)
            blocks = self._read_blocks()
            packets, drops = self._ring.read_statistics()
        except Exception as error:  # counted: the thread must continue to read
            self._fault(error)
            return 0
        self._kernel_packets += packets
        self._kernel_drops += drops
        return blocks

    def _read_blocks(self) -> int:
        blocks = 0
        for packets, first in self._ring.take():
            blocks += 1
            try:
                self._read_block(packets, first)
            except Exception as error:  # the other blocks are readable
                self._fault(error)
        return blocks

    def _fault(self, error: Exception) -> None:
        self._faults += 1
        note = f"capture fault: {error!r}"
        if note not in self._notes and len(self._notes) < 10:
            self._notes.append(note)

    def _read_block(self, packets: int, header: int) -> None:
        memory, flows, keep = self._ring.memory, self._flows, self.frames
        keeping = bool(keep.maxlen)
        unpack, unpack_v4, unpack_v6 = PACKET.unpack_from, _V4.unpack_from, _V6.unpack_from
        least_v4, least_v6 = (ETHERNET_HEADER + IP_HEADER[version] + _UDP_AND_STAMP for version in (4, 6))
        for _ in range(packets):
            following, seconds, nanoseconds, kept, length, status, offset = unpack(memory, header)
            frame = header + offset
            time_ns = seconds * 1_000_000_000 + nanoseconds
            known, udp_end = None, 0
            kind = memory[frame + _TYPE : frame + _TYPE + 2]
            if kind == IPV4 and kept >= least_v4:
                version, fragment, protocol, key, udp, r_seq, t3, ssid, t2, s_seq, t1 = unpack_v4(memory, frame + _TYPE)
                if protocol == UDP and version == _PLAIN_IPV4 and not fragment & _NO_FRAGMENT:
                    known, udp_end = flows.get(key), _V4_UDP + udp
            elif kind == IPV6 and kept >= least_v6:
                protocol, key, udp, r_seq, t3, ssid, t2, s_seq, t1 = unpack_v6(memory, frame + _TYPE)
                if protocol == UDP:
                    known, udp_end = flows.get(key), _V6_UDP + udp
            if known is None or udp != known[0] or udp_end > kept:
                self._count_other(memory[frame : frame + min(kept, 128)])
            elif not checksums_valid(memory[frame : frame + kept], status):
                self._bad_checksums += 1
            elif ssid == UNMEASURED_SSID:
                self._others[FrameClass.UNMEASURED] += 1
            else:
                add_sender, add_reflector, add_time, add_t1, add_t2, add_t3 = known[1]
                add_sender(s_seq)
                add_reflector(r_seq)
                add_time(time_ns)
                add_t1(t1)
                add_t2(t2)
                add_t3(t3)
            if keeping:
                keep.append(RawFrame(time_ns, length, memory[frame : frame + kept]))
            header += following

    def _count_other(self, frame: bytes) -> None:
        if _key_of(frame) in self._flows:
            self._others[FrameClass.TRUNCATED] += 1
        else:
            self._others[classify(frame)] += 1


def checksums_valid(frame: bytes, status: int) -> bool:
    """Whether the stack accepts a UDP packet in one piece, IPv4 without options.

    With an unfinished checksum the field has the sum of the pseudo header, else a NIC would complete it wrong
    (Documentation/networking/checksum-offloads.rst).

    :param status: ``tp_status`` of the ring.
    """
    ipv4 = frame[_TYPE : _TYPE + 2] == IPV4
    if ipv4 and int.from_bytes(frame[_V4_HEADER]) % 0xFFFF:  # RFC 1071: the sum of a whole header is 0
        return False
    if status & TP_STATUS_CSUM_VALID:
        return True
    addresses, udp = (_V4_ADDRESSES, _V4_UDP) if ipv4 else (_V6_ADDRESSES, _V6_UDP)
    length, checksum = int.from_bytes(frame[udp + 4 : udp + 6]), int.from_bytes(frame[udp + 6 : udp + 8])
    if status & TP_STATUS_CSUMNOTREADY:
        return (int.from_bytes(frame[addresses:udp]) + UDP + length - checksum) % 0xFFFF == 0
    if not checksum:
        return ipv4  # RFC 768: none; RFC 8200 section 8.1: not in IPv6
    covered = int.from_bytes(frame[addresses : udp + length])
    return ((covered << 8 if length % 2 else covered) + UDP + length) % 0xFFFF == 0


def _answer_key(flow: Flow) -> bytes:
    """Addresses and ports of an answer, which are adjacent in it."""
    return (
        ipaddress.ip_address(flow.target).packed
        + ipaddress.ip_address(flow.source).packed
        + struct.pack("!HH", flow.target_port, flow.source_port)
    )


def _key_of(frame: bytes) -> bytes:
    """The same bytes of any frame; empty when it is not UDP in one piece and without IP options."""
    if frame[12:14] == IPV4 and frame[14:15] == b"\x45" and frame[23:24] == b"\x11":
        if int.from_bytes(frame[20:22], "big") & _NO_FRAGMENT:
            return b""  # a fragment: the bytes after the addresses may not be ports
        return frame[26:38]
    if frame[12:14] == IPV6 and frame[20:21] == b"\x11":
        return frame[22:58]
    return b""
