"""STAMP packets have the layout of RFC 8762, as scapy's layer reads and writes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.stamp import STAMPSessionReflectorTestUnauthenticated, STAMPSessionSenderTestUnauthenticated

from cprlib.traffic.stamp import NTP_EPOCH_S, Malformed, ReflectorPacket, SenderPacket, ns_to_ntp, ntp_to_ns

pytestmark = pytest.mark.fast

NOW = 1_760_000_000_123_456_789
times = st.integers(0, (1 << 32) * 10**9)  # 1970 to 2106: over the end of NTP's era in 2036
counters = st.integers(0, (1 << 32) - 1)


@given(times.filter(lambda time_ns: time_ns < 4_000_000_000 * 10**9))
def test_ntp_stamps_keep_every_nanosecond(time_ns: int) -> None:
    assert ntp_to_ns(ns_to_ntp(time_ns)) == time_ns


def test_ntp_epoch_is_1900() -> None:
    assert ns_to_ntp(0) == NTP_EPOCH_S << 32
    assert ns_to_ntp(500_000_000) & 0xFFFFFFFF == 1 << 31


def test_sender_packet_is_what_scapy_reads() -> None:
    data = SenderPacket(7, NOW, ssid=3).encode()
    read = STAMPSessionSenderTestUnauthenticated(data)
    assert len(data) == 44
    assert (read.seq, read.ssid, read.err_estimate.S, read.err_estimate.Z) == (7, 3, 0, 0)
    assert read.err_estimate.multiplier == 1
    assert int.from_bytes(data[4:12], "big") == ns_to_ntp(NOW)
    assert read.mbz == 0
    assert abs(read.ts - (NOW / 1e9 + NTP_EPOCH_S)) < 1e-3  # scapy: seconds since 1900 as a float


def test_reflector_packet_is_what_scapy_reads() -> None:
    packet = ReflectorPacket(5, NOW + 3000, NOW + 2000, 9, NOW, sender_ttl=63, ssid=3)
    data = packet.encode()
    read = STAMPSessionReflectorTestUnauthenticated(data)
    assert len(data) == 44
    assert (read.seq, read.seq_sender, read.ttl_sender, read.ssid) == (5, 9, 63, 3)
    assert (read.mbz1, read.mbz2) == (0, 0)
    assert bytes(read) == data


def test_what_scapy_builds_is_read() -> None:
    built = STAMPSessionReflectorTestUnauthenticated(
        seq=1, ts=NTP_EPOCH_S + 30.5, ts_rx=NTP_EPOCH_S + 20.25, seq_sender=4, ts_sender=NTP_EPOCH_S + 10.75, ssid=2
    )
    packet = ReflectorPacket.decode(bytes(built))
    assert (packet.sequence, packet.sender_sequence, packet.ssid) == (1, 4, 2)
    assert (packet.sent_ns, packet.received_ns) == (30_500_000_000, 20_250_000_000)
    assert (packet.sender_sent_ns, packet.sender_ttl) == (10_750_000_000, 255)


@given(counters, counters, st.integers(0, 255), st.integers(44, 1472))
def test_packets_survive_encoding(sequence: int, own: int, ttl: int, size: int) -> None:
    sender = SenderPacket(sequence, NOW)
    reflector = ReflectorPacket(own, NOW + 2, NOW + 1, sequence, NOW, ttl)
    assert SenderPacket.decode(sender.encode(size)) == sender
    assert ReflectorPacket.decode(reflector.encode(size)) == reflector
    assert len(sender.encode(size)) == len(reflector.encode(size)) == size


@given(st.binary(max_size=43))
def test_short_packets_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="44"):
        SenderPacket.decode(data)
    with pytest.raises(Malformed, match="44"):
        ReflectorPacket.decode(data)


def test_short_sizes_are_refused() -> None:
    with pytest.raises(Malformed):
        SenderPacket(0, 0).encode(43)
