"""Complete Ethernet frames, built by scapy once per flow and patched for each packet.

Patched are sequence number, time stamp and UDP checksum. The checksum needs no pass over the packet: RFC 1071's sum is
a sum modulo 0xFFFF, and so is the sum of larger words, because 2^16 = 1 (mod 0xFFFF).
"""

from __future__ import annotations

import struct

from cprlib.traffic.flow import IP_HEADER, UDP_HEADER, Flow
from cprlib.traffic.stamp import SEQUENCE_OFFSET, TIMESTAMP_OFFSET, SenderPacket, ns_to_ntp

ETHERNET_HEADER = 14
UDP_CHECKSUM_OFFSET = 6  # in the UDP header
TTL = 64
_PATCH = struct.Struct("!HIQ")  # UDP checksum, sequence number and time stamp lie side by side


class FrameTemplate:
    """The frame of one flow. Not for use by two threads at once: there is one buffer.

    :param flow: whose frames these are; its UDP checksum is always there, so that corruption is not taken for arrival.
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
        #: sum over pseudo header, UDP header and payload while sequence number and time stamp are those built in
        built_in = 0 + ns_to_ntp(0)
        self.base_sum = (0xFFFF - checksum - built_in) % 0xFFFF

    def patch(self, sequence: int, sent_ns: int) -> bytearray:
        """The frame with this sequence number and time stamp: the template's own buffer, until the next call."""
        stamp = ns_to_ntp(sent_ns)
        checksum = 0xFFFF - (self.base_sum + sequence + stamp) % 0xFFFF  # 1 to 0xFFFF: never 0, which means "none"
        _PATCH.pack_into(self.buffer, self.checksum_offset, checksum, sequence, stamp)
        return self.buffer


def _build(flow: Flow) -> bytes:
    """Let scapy lay out headers, lengths and checksums of packet 0, sent at 0 ns."""
    from scapy.layers.inet import IP, UDP  # noqa: PLC0415 - scapy is slow to import: only who builds frames pays
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
