"""A patched frame equals one that scapy builds, including the checksum."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from cprlib.traffic.flow import flows_between
from cprlib.traffic.frames import FrameTemplate
from cprlib.traffic.stamp import sender_packet

TEMPLATES = {
    (version, size): FrameTemplate(flows_between(versions=(version,), size=size, dscp=46)[0])
    for version in (4, 6)
    for size in (44, 45, 1000, 1452)
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [44, 45, 1000, 1452])
@given(sequence=st.integers(0, (1 << 32) - 1), moment=st.integers(0, 4_000_000_000 * 10**9))
@settings(max_examples=25, deadline=None)
def test_patched_frame_is_what_scapy_builds(version: int, size: int, sequence: int, moment: int) -> None:
    template = TEMPLATES[version, size]
    flow = template.flow
    network = (
        IP(src=flow.source, dst=flow.target, tos=46 << 2, flags="DF", id=0)
        if version == 4
        else IPv6(src=flow.source, dst=flow.target, tc=46 << 2)
    )
    payload = sender_packet(sequence, moment, flow.ssid, size)
    whole = (
        Ether(src=flow.source_mac, dst=flow.target_mac)
        / network
        / UDP(sport=flow.source_port, dport=flow.target_port)
        / Raw(payload)
    )
    assert bytes(template.patch(sequence, moment)) == bytes(whole)
