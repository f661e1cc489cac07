"""Faults hit the packets they are meant for and no others; test_known_faults.py injects them in a kernel."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprlib.errors import UsageError
from cprlib.linux.packet_faults import PacketSelection, StampPacket
from cprlib.traffic.stamp import STAMP_PORT, reflector_packet, sender_packet

PORT = 20000


def matches(keys: list[str], packet: bytes) -> bool:
    """What the u32 filter does: all keys, each a value under a mask at an offset."""
    for key in keys:
        condition, _, offset = key.partition("+")
        value, _, mask = condition.partition("/")
        width = (len(mask) - 2) // 2
        word = int.from_bytes(packet[int(offset) : int(offset) + width], "big")
        if word & int(mask, 16) != int(value, 16):
            return False
    return True


def ip_packet(payload: bytes, source_port: int, target_port: int, protocol: int = 17) -> bytes:
    header = bytes([0x45]) + bytes(8) + bytes([protocol]) + bytes(10)
    return header + source_port.to_bytes(2, "big") + target_port.to_bytes(2, "big") + bytes(4) + payload


@settings(deadline=None)  # how long it takes is not what is tested
@given(st.sampled_from([1, 2, 8, 64, 256, 4096]), st.data(), st.integers(0, 1 << 20))
def test_keys_choose_by_number_port_and_kind(every: int, data: st.DataObject, number: int) -> None:
    first = data.draw(st.integers(0, every - 1))
    hit = number % every == first
    test, answer = (
        PacketSelection(StampPacket.TEST, PORT, every, first),
        PacketSelection(StampPacket.ANSWER, PORT, every, first),
    )
    sent, reflected = sender_packet(number, 0), reflector_packet(number + 1, 0, 0, number, 0)
    assert matches(test.keys, ip_packet(sent, PORT, STAMP_PORT)) == hit == (number in test.among(number + 1))
    assert matches(answer.keys, ip_packet(reflected, STAMP_PORT, PORT)) == hit
    assert not matches(test.keys, ip_packet(sent, PORT + 1, STAMP_PORT))
    assert not matches(test.keys, ip_packet(sent, PORT, STAMP_PORT, protocol=6))
    assert not matches(answer.keys, ip_packet(reflected, STAMP_PORT, PORT + 1))


@pytest.mark.parametrize(("every", "first"), [(0, 0), (3, 0), (-8, 0), (8, 8), (8, -1)])
def test_numbers_that_a_mask_cannot_choose_are_refused(every: int, first: int) -> None:
    with pytest.raises(UsageError):
        PacketSelection(StampPacket.TEST, PORT, every, first)
