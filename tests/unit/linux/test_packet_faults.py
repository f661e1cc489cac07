"""Faults hit the packets they are meant for and no others, and count them; needs a kernel with u32, prio and netem."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprlib.errors import NotSupported, UsageError
from cprlib.linux.counters import QdiscSide, read_queue_drops
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.packet_faults import PacketFault, PacketSelection, StampPacket, disturb, drop
from cprlib.linux.topology import GUEST, STATION
from cprlib.traffic.stamp import STAMP_PORT, ReflectorPacket, SenderPacket

from ..traffic.veth import INTERFACE, Pair, silence, veth_pair_or_skip

PORT, COUNT = 20000, 64


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
    sent, reflected = SenderPacket(number, 0).encode(), ReflectorPacket(number + 1, 0, 0, number, 0).encode()
    assert matches(test.keys, ip_packet(sent, PORT, STAMP_PORT)) == hit == (number in test.among(number + 1))
    assert matches(answer.keys, ip_packet(reflected, STAMP_PORT, PORT)) == hit
    assert not matches(test.keys, ip_packet(sent, PORT + 1, STAMP_PORT))
    assert not matches(test.keys, ip_packet(sent, PORT, STAMP_PORT, protocol=6))
    assert not matches(answer.keys, ip_packet(reflected, STAMP_PORT, PORT + 1))


@pytest.mark.parametrize(("every", "first"), [(0, 0), (3, 0), (-8, 0), (8, 8), (8, -1)])
def test_numbers_that_a_mask_cannot_choose_are_refused(every: int, first: int) -> None:
    with pytest.raises(UsageError):
        PacketSelection(StampPacket.TEST, PORT, every, first)


@contextlib.contextmanager
def quiet_pair() -> Iterator[Pair]:
    """Both ends without IPv6, whose reports would mix in."""
    with veth_pair_or_skip() as pair:
        for namespace in (pair.station, pair.guest):
            silence(namespace)
        yield pair


@contextlib.contextmanager
def ends(pair: Pair) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket that sends from the station and one that receives at the guest."""
    with pair.station.entered():
        sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pair.guest.entered():
        receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sending, receiving:
        sending.bind((STATION.ipv4, PORT))
        receiving.bind((GUEST.ipv4, STAMP_PORT))
        receiving.settimeout(0.2)
        yield sending, receiving


def numbers_that_arrive(pair: Pair) -> list[int]:
    """Send some test packets and give the numbers that come, in that order."""
    came = []
    with ends(pair) as (sending, receiving):
        for number in range(COUNT):
            sending.sendto(SenderPacket(number, 0).encode(), (GUEST.ipv4, STAMP_PORT))
        with contextlib.suppress(TimeoutError):
            while True:
                came.append(SenderPacket.decode(receiving.recv(2000)).sequence)
    return came


@contextlib.contextmanager
def or_skip(fault: contextlib.AbstractContextManager[PacketFault]) -> Iterator[PacketFault]:
    with contextlib.ExitStack() as stack:
        try:
            entered = stack.enter_context(fault)
        except NotSupported as error:
            pytest.skip(error.one_line())
        yield entered


@pytest.mark.parametrize("side", list(QdiscSide))
def test_every_eighth_packet_is_dropped_and_counted(side: QdiscSide) -> None:
    numbers = PacketSelection(StampPacket.TEST, PORT, 8, 5)
    with quiet_pair() as pair:
        end: NetworkNamespace = pair.station if side is QdiscSide.EGRESS else pair.guest
        with or_skip(drop(end, INTERFACE, side, numbers)) as fault:
            came = numbers_that_arrive(pair)
            counted = fault.count()
            assert read_queue_drops(end, INTERFACE) == {side: 8} | {
                other: 0 for other in QdiscSide if other is not side
            }
        assert counted.dropped == 8
        assert came == [number for number in range(COUNT) if number % 8 != 5]
        assert numbers_that_arrive(pair) == list(range(COUNT))  # the fault is gone
        assert set(read_queue_drops(end, INTERFACE).values()) == {0}


def test_only_chosen_packets_are_copied_or_held_back() -> None:
    numbers = PacketSelection(StampPacket.TEST, PORT, 16, 1)
    with quiet_pair() as pair:
        with or_skip(disturb(pair.station, INTERFACE, numbers, duplicate=100)):
            came = numbers_that_arrive(pair)
        assert sorted(came) == sorted([*range(COUNT), *numbers.among(COUNT)])
        with or_skip(disturb(pair.station, INTERFACE, numbers, delay=50_000)):
            came = numbers_that_arrive(pair)
        assert came == [*(number for number in range(COUNT) if number % 16 != 1), *numbers.among(COUNT)]


def test_random_loss_is_counted_by_its_own_queue() -> None:
    with (
        quiet_pair() as pair,
        or_skip(disturb(pair.station, INTERFACE, PacketSelection(StampPacket.TEST, PORT, 1, 0), loss=30)) as fault,
    ):
        came = numbers_that_arrive(pair)
        assert fault.count().dropped == COUNT - len(came) > 0
        assert read_queue_drops(pair.station, INTERFACE)[QdiscSide.EGRESS] == COUNT - len(came)
