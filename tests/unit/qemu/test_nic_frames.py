"""Hand-made frames have the headers that their names say."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from cprlib.linux.topology import GUEST, STATION
from cprlib.testing.nic_frames import EXPERIMENTAL, UNUSED_ADDRESS, flow_frame, frame

pytestmark = pytest.mark.fast


def test_frame_without_and_with_vlan() -> None:
    plain = Ether(frame("01:00:5e:75:75:75"))
    assert (plain.dst, plain.src, plain.type) == ("01:00:5e:75:75:75", STATION.mac, EXPERIMENTAL)
    tagged = Ether(frame(GUEST.mac, vlan=5))
    assert (tagged[Dot1Q].vlan, tagged[Dot1Q].type) == (5, EXPERIMENTAL)
    assert len(frame(GUEST.mac)) >= 60


def test_a_flow_frame_is_a_valid_packet_to_an_unused_address() -> None:
    packet = Ether(flow_frame(30001))
    assert (packet.dst, packet[IP].dst, packet[UDP].sport) == (GUEST.mac, UNUSED_ADDRESS, 30001)
    checksum = packet[IP].chksum
    del packet[IP].chksum
    assert Ether(packet.build())[IP].chksum == checksum
    assert packet[IP].len == len(packet[IP])
