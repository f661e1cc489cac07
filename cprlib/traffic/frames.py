"""Ethernet frames: those of a flow, built once and patched per packet; the kinds of all others; pcap files.

Written out here, because each lab would have to import scapy, which is slow. Unit tests compare with scapy.

Patched are sequence number, time stamp and UDP checksum. The checksum needs no pass over the packet: RFC 1071's sum is
a sum modulo 0xFFFF, and so is the sum of larger words, because 2^16 = 1 (mod 0xFFFF).
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cprlib.errors import EnvironmentFailure
from cprlib.traffic.flow import IP_HEADER, UDP_HEADER, Flow
from cprlib.traffic.stamp import SEQUENCE_OFFSET, TIMESTAMP_OFFSET, ns_to_ntp, sender_packet

ETHERNET_HEADER = 14
UDP_CHECKSUM_OFFSET = 6  # in the UDP header
TTL = 64
_PATCH = struct.Struct("!HIQ")  # UDP checksum, sequence number and time stamp are adjacent

ARP, RARP, IPV4, IPV6 = b"\x08\x06", b"\x80\x35", b"\x08\x00", b"\x86\xdd"  # Ethernet types
UDP = 17
_DONT_FRAGMENT = 0x4000
_IGMP, _ICMP, _FRAGMENT, _HOP_BY_HOP, _ICMPV6 = 2, 1, 44, 0, 58
_MLD_TYPES = {130, 131, 132, 143}  # RFC 2710, RFC 3810
_ND_TYPES = {133, 134, 135, 136, 137}  # RFC 4861

_PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 0xFFFF, 1)  # nanoseconds, no zone, any length, Ethernet
_PCAP_RECORD = struct.Struct("<4I")  # seconds, nanoseconds, bytes in the file, bytes on the wire
WRITE_BUFFER = 1 << 20  # bytes


class FrameTemplate:
    """The frame of one flow. Not thread-safe: there is one buffer.

    :param flow: whose frames these are. The UDP checksum is always present, so that the receiver drops damaged packets.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.buffer = bytearray(_build(flow))
        udp = ETHERNET_HEADER + IP_HEADER[flow.version]
        self.checksum_offset = udp + UDP_CHECKSUM_OFFSET
        self.payload_offset = udp + UDP_HEADER
        assert self.checksum_offset + 2 == self.payload_offset + SEQUENCE_OFFSET
        assert self.payload_offset + TIMESTAMP_OFFSET == self.checksum_offset + 6
        (checksum,) = struct.unpack_from("!H", self.buffer, self.checksum_offset)
        #: sum of pseudo header, UDP header and payload without sequence number and time stamp
        self.base_sum = (0xFFFF - checksum - ns_to_ntp(0)) % 0xFFFF

    def patch(self, sequence: int, sent_ns: int) -> bytearray:
        """The frame with this sequence number and time stamp: the template's own buffer, valid until the next call."""
        stamp = ns_to_ntp(sent_ns)
        checksum = 0xFFFF - (self.base_sum + sequence + stamp) % 0xFFFF  # 1 to 0xFFFF: never 0, which means "none"
        _PATCH.pack_into(self.buffer, self.checksum_offset, checksum, sequence, stamp)
        return self.buffer


def _build(flow: Flow) -> bytes:
    """Packet 0 of a flow, sent at 0 ns."""
    payload = sender_packet(0, 0, flow.ssid, flow.size)
    source, target = (ipaddress.ip_address(text).packed for text in (flow.source, flow.target))
    length = UDP_HEADER + len(payload)
    udp = [flow.source_port, flow.target_port, length]
    # The sum over RFC 768's pseudo header is the same as over RFC 8200's.
    covered = source + target + struct.pack("!5H", UDP, length, *udp) + payload
    transport = struct.pack("!4H", *udp, internet_checksum(covered)) + payload
    if flow.version == 4:
        start = struct.pack("!BBHHHBB", 0x45, flow.dscp << 2, IP_HEADER[4] + length, 0, _DONT_FRAGMENT, TTL, UDP)
        checksum = internet_checksum(start + source + target)
        kind, network = IPV4, start + struct.pack("!H", checksum) + source + target
    else:
        start = struct.pack("!IHBB", 6 << 28 | flow.dscp << 22, length, UDP, TTL)
        kind, network = IPV6, start + source + target
    addresses = bytes.fromhex((flow.target_mac + flow.source_mac).replace(":", ""))
    return addresses + kind + network + transport


def internet_checksum(content: bytes) -> int:
    """The checksum of RFC 1071, 1 to 0xFFFF: never 0, which means "none" in UDP."""
    return 0xFFFF - int.from_bytes(content + bytes(len(content) % 2), "big") % 0xFFFF


class FrameClass(enum.StrEnum):
    """Kinds of frames that are counted apart from the test packets."""

    ARP = "arp"
    RARP = "rarp"  # QEMU's own announcement of a guest (qemu_announce_self(), net/announce.c)
    NEIGHBOUR_DISCOVERY = "nd"
    MLD = "mld"
    IGMP = "igmp"
    ICMP = "icmp"  # includes ICMPv6 errors; "port unreachable" is a fault of the set-up
    FRAGMENT = "fragment"
    UNMEASURED = "unmeasured"  # late answers to warm-up and probes (stamp.UNMEASURED_SSID)
    TRUNCATED = "truncated"  # of one of our flows, but cut, or of another size than an answer
    FOREIGN = "foreign"


def classify(frame: bytes) -> FrameClass:
    """The class of a frame that does not belong to a flow. Accepts arbitrary bytes."""
    kind = frame[12:14]
    if kind == ARP:
        return FrameClass.ARP
    if kind == RARP:
        return FrameClass.RARP
    if kind == IPV4 and len(frame) >= 34:
        if int.from_bytes(frame[20:22], "big") & 0x3FFF:
            return FrameClass.FRAGMENT
        return {_ICMP: FrameClass.ICMP, _IGMP: FrameClass.IGMP}.get(frame[23], FrameClass.FOREIGN)
    if kind == IPV6 and len(frame) >= 54:
        return _classify_ipv6(frame)
    return FrameClass.FOREIGN


def _classify_ipv6(frame: bytes) -> FrameClass:
    following, offset = frame[20], 54
    if following == _HOP_BY_HOP and len(frame) >= offset + 8:  # MLD carries a router alert
        following, offset = frame[offset], offset + 8 + frame[offset + 1] * 8
    if following == _FRAGMENT:
        return FrameClass.FRAGMENT
    if following == _ICMPV6 and len(frame) > offset:
        if frame[offset] in _MLD_TYPES:
            return FrameClass.MLD
        return FrameClass.NEIGHBOUR_DISCOVERY if frame[offset] in _ND_TYPES else FrameClass.ICMP
    return FrameClass.FOREIGN


class RawFrame(NamedTuple):
    """A frame for a pcap.

    :param length: bytes on the wire.
    :param content: the bytes that were captured.
    """

    time_ns: int
    length: int
    content: bytes


def sent_frames(flow: Flow, sent_ns: Iterable[int]) -> list[RawFrame]:
    """The frames of a flow as they were sent, rebuilt from the send times, so that no second capture is needed."""
    template = FrameTemplate(flow)
    frames = []
    for sequence, time_ns in enumerate(sent_ns):
        content = bytes(template.patch(sequence, time_ns))
        frames.append(RawFrame(time_ns, len(content), content))
    return frames


def write_pcap(path: Path, frames: Iterable[RawFrame]) -> int:
    """Write frames in order of time, with nanosecond time stamps (draft-ietf-opsawg-pcap); returns how many.

    :raises EnvironmentFailure: the file cannot be written.
    """
    ordered = sorted(frames, key=lambda frame: frame.time_ns)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb", buffering=WRITE_BUFFER) as file:
            file.write(_PCAP_HEADER)
            for time_ns, length, content in ordered:
                seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
                file.write(_PCAP_RECORD.pack(seconds, nanoseconds, len(content), length) + content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentFailure(f"write {path}", str(error), "free some space or choose another folder") from error
    return len(ordered)
