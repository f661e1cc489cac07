"""The filter keeps everything but UDP and TCP, with the kernel's time."""

from __future__ import annotations

import time

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from cprlib.linux.topology import GUEST, STATION
from cprlib.traffic.frames import FrameClass
from cprlib.traffic.other_frames import OtherFrames, between
from cprlib.traffic.sockets import open_sending

from .veth import INTERFACE, veth_pair_or_skip

HEAD = Ether(src=GUEST.mac, dst="ff:ff:ff:ff:ff:ff")


def test_udp_and_tcp_are_left_out_and_announcements_are_recognized() -> None:
    frames = [
        HEAD / ARP(op=1, hwsrc=GUEST.mac, psrc=GUEST.ipv4, pdst=GUEST.ipv4),
        HEAD / ARP(op=1, hwsrc=GUEST.mac, psrc=GUEST.ipv4, pdst=STATION.ipv4),
        Ether(src=GUEST.mac, dst="ff:ff:ff:ff:ff:ff", type=0x8035) / Raw(bytes(46)),
        Ether(src=GUEST.mac, dst="33:33:00:00:00:01") / IPv6(dst="ff02::1") / ICMPv6ND_NA(tgt=GUEST.ipv6),
        HEAD / IP(dst=STATION.ipv4) / ICMP(),
        HEAD / IP(dst=STATION.ipv4) / UDP() / Raw(bytes(44)),
        HEAD / IP(dst=STATION.ipv4) / TCP(),
        HEAD / IPv6(dst=STATION.ipv6) / UDP() / Raw(bytes(44)),
        HEAD / IP(dst=STATION.ipv4, frag=9, proto=17) / Raw(bytes(44)),
        *[HEAD / IPv6(dst=STATION.ipv6) / IPv6ExtHdrFragment(nh=nh, offset=9) / Raw(bytes(44)) for nh in (17, 6, 58)],
        Ether(src=GUEST.mac, dst=STATION.mac, type=0x88B5) / Raw(b"unknown"),
    ]
    begun = time.time_ns()
    with veth_pair_or_skip() as pair, OtherFrames(pair.station, INTERFACE) as others:
        with pair.guest.entered():
            opened = open_sending(INTERFACE)
        with opened:
            for frame in frames:
                opened.send(bytes(frame))
        seen = [item for item in others.read() if item.sender == GUEST.mac and item.kind is not FrameClass.MLD]
        assert others.read_dropped() == 0
    assert [(item.kind.value, item.announces) for item in seen] == [
        ("arp", True),
        ("arp", False),
        ("rarp", True),
        ("nd", True),
        ("icmp", False),
        ("fragment", False),
        ("foreign", False),
    ]
    assert between(seen, begun, time.time_ns() + 1) == tuple(seen)
