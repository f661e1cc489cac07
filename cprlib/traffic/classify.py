"""What a frame is that belongs to none of our flows: told apart, counted, never taken for a test packet."""

from __future__ import annotations

import enum

_ARP, _IPV4, _IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
_ICMP, _UDP, _FRAGMENT, _HOP_BY_HOP, _ICMPV6 = 1, 17, 44, 0, 58
_MLD_TYPES = {130, 131, 132, 143}  # RFC 2710, RFC 3810
_ND_TYPES = {133, 134, 135, 136, 137}  # RFC 4861


class FrameClass(enum.StrEnum):
    """Kinds of frames that are counted apart from the test packets."""

    ARP = "arp"
    NEIGHBOUR_DISCOVERY = "nd"
    MLD = "mld"
    ICMP = "icmp"  # with ICMPv6 errors: a port unreachable is a fault of the set-up
    FRAGMENT = "fragment"
    TRUNCATED = "truncated"  # of one of our flows, but too short to be a test packet
    FOREIGN = "foreign"


def classify(frame: bytes) -> FrameClass:
    """The class of a frame that did not match a flow; any bytes at all are allowed."""
    kind = frame[12:14]
    if kind == _ARP:
        return FrameClass.ARP
    if kind == _IPV4 and len(frame) >= 34:
        if int.from_bytes(frame[20:22], "big") & 0x3FFF:
            return FrameClass.FRAGMENT
        return FrameClass.ICMP if frame[23] == _ICMP else FrameClass.FOREIGN
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
