"""Ethernet frames: those of a flow, built by scapy once and patched per packet; the kinds of all others; pcap files.

Patched are sequence number, time stamp and UDP checksum. The checksum needs no pass over the packet: RFC 1071's sum is
a sum modulo 0xFFFF, and so is the sum of larger words, because 2^16 = 1 (mod 0xFFFF).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from pathlib import Path

from cprlib.errors import EnvironmentFailure
from cprlib.traffic.flow import IP_HEADER, UDP_HEADER, Flow
from cprlib.traffic.stamp import SEQUENCE_OFFSET, TIMESTAMP_OFFSET, SenderPacket, ns_to_ntp

ETHERNET_HEADER = 14
UDP_CHECKSUM_OFFSET = 6  # in the UDP header
TTL = 64
_PATCH = struct.Struct("!HIQ")  # UDP checksum, sequence number and time stamp are adjacent

_ARP, _RARP, _IPV4, _IPV6 = b"\x08\x06", b"\x80\x35", b"\x08\x00", b"\x86\xdd"
_IGMP, _ICMP, _FRAGMENT, _HOP_BY_HOP, _ICMPV6 = 2, 1, 44, 0, 58
_MLD_TYPES = {130, 131, 132, 143}  # RFC 2710, RFC 3810
_ND_TYPES = {133, 134, 135, 136, 137}  # RFC 4861

LINKTYPE_ETHERNET = 1
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
    """Packet 0 of a flow, sent at 0 ns: scapy fills in headers, lengths and checksums."""
    from scapy.layers.inet import IP, UDP  # noqa: PLC0415 - scapy is slow to import, and absent from worker processes
    from scapy.layers.l2 import Ether  # noqa: PLC0415
    from scapy.packet import Raw  # noqa: PLC0415

    payload = SenderPacket(0, 0, flow.ssid).encode(flow.size)
    if flow.version == 4:
        network = IP(src=flow.source, dst=flow.target, tos=flow.dscp << 2, ttl=TTL, id=0, flags="DF")
    else:
        from scapy.layers.inet6 import IPv6  # noqa: PLC0415

        network = IPv6(src=flow.source, dst=flow.target, tc=flow.dscp << 2, hlim=TTL)
    transport = UDP(sport=flow.source_port, dport=flow.target_port)
    return bytes(Ether(src=flow.source_mac, dst=flow.target_mac) / network / transport / Raw(payload))


class FrameClass(enum.StrEnum):
    """Kinds of frames that are counted apart from the test packets."""

    ARP = "arp"
    RARP = "rarp"  # QEMU's own announcement of a guest (qemu_announce_self(), net/announce.c)
    NEIGHBOUR_DISCOVERY = "nd"
    MLD = "mld"
    IGMP = "igmp"
    ICMP = "icmp"  # includes ICMPv6 errors; "port unreachable" is a fault of the set-up
    FRAGMENT = "fragment"
    TRUNCATED = "truncated"  # of one of our flows, but too short for a test packet
    FOREIGN = "foreign"


def classify(frame: bytes) -> FrameClass:
    """The class of a frame that does not belong to a flow. Accepts arbitrary bytes."""
    kind = frame[12:14]
    if kind == _ARP:
        return FrameClass.ARP
    if kind == _RARP:
        return FrameClass.RARP
    if kind == _IPV4 and len(frame) >= 34:
        if int.from_bytes(frame[20:22], "big") & 0x3FFF:
            return FrameClass.FRAGMENT
        return {_ICMP: FrameClass.ICMP, _IGMP: FrameClass.IGMP}.get(frame[23], FrameClass.FOREIGN)
    if kind == _IPV6 and len(frame) >= 54:
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


class RawFrame(tuple[int, int, bytes]):
    """Time in ns, length on the wire and bytes of a frame, for a pcap."""

    __slots__ = ()


def sent_frames(flow: Flow, sent_ns: Iterable[int]) -> list[RawFrame]:
    """The frames of a flow as they were sent, rebuilt from the send times, so that no second capture is needed."""
    template = FrameTemplate(flow)
    frames = []
    for sequence, time_ns in enumerate(sent_ns):
        content = bytes(template.patch(sequence, time_ns))
        frames.append(RawFrame((time_ns, len(content), content)))
    return frames


def write_pcap(path: Path, frames: Iterable[RawFrame]) -> int:
    """Write frames in order of time, with nanosecond time stamps; returns how many.

    :raises EnvironmentFailure: the file cannot be written.
    """
    from scapy.utils import PcapWriter  # noqa: PLC0415 - slow to import

    ordered = sorted(frames, key=lambda frame: frame[0])
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = PcapWriter(str(temporary), linktype=LINKTYPE_ETHERNET, nano=True, bufsz=WRITE_BUFFER)
        try:
            writer.write_header(b"")
            for time_ns, length, content in ordered:
                seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
                writer.write_packet(content, sec=seconds, usec=nanoseconds, caplen=len(content), wirelen=length)
        finally:
            writer.close()
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentFailure(f"write {path}", str(error), "free some space or choose another folder") from error
    return len(ordered)
