"""STAMP packets have the layout of RFC 8762, as scapy's layer reads and writes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.stamp import STAMPSessionReflectorTestUnauthenticated, STAMPSessionSenderTestUnauthenticated

from cprlib.traffic.stamp import NTP_EPOCH_S, REFLECTOR, SENDER, ns_to_ntp, ntp_to_ns, reflector_packet, sender_packet

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
    data = sender_packet(7, NOW, ssid=3)
    read = STAMPSessionSenderTestUnauthenticated(data)
    assert len(data) == 44
    assert (read.seq, read.ssid, read.err_estimate.S, read.err_estimate.Z) == (7, 3, 0, 0)
    assert read.err_estimate.multiplier == 1
    assert int.from_bytes(data[4:12], "big") == ns_to_ntp(NOW)
    assert read.mbz == 0
    assert abs(read.ts - (NOW / 1e9 + NTP_EPOCH_S)) < 1e-3  # scapy: seconds since 1900 as a float


def test_reflector_packet_is_what_scapy_reads() -> None:
    data = reflector_packet(5, NOW + 3000, NOW + 2000, 9, NOW, ssid=3)
    read = STAMPSessionReflectorTestUnauthenticated(data)
    assert len(data) == 44
    assert (read.seq, read.seq_sender, read.ttl_sender, read.ssid) == (5, 9, 255, 3)
    assert (read.mbz1, read.mbz2) == (0, 0)
    assert bytes(read) == data


def test_what_scapy_builds_is_read() -> None:
    built = STAMPSessionReflectorTestUnauthenticated(
        seq=1, ts=NTP_EPOCH_S + 30.5, ts_rx=NTP_EPOCH_S + 20.25, seq_sender=4, ts_sender=NTP_EPOCH_S + 10.75, ssid=2
    )
    sequence, t3, _, ssid, t2, sender_sequence, t1, _, ttl = REFLECTOR.unpack(bytes(built))
    assert (sequence, sender_sequence, ssid, ttl) == (1, 4, 2, 255)
    assert [ntp_to_ns(stamp) for stamp in (t3, t2, t1)] == [30_500_000_000, 20_250_000_000, 10_750_000_000]


@given(counters, counters, st.integers(44, 1472))
def test_packets_are_read_as_written(sequence: int, own: int, size: int) -> None:
    sender = sender_packet(sequence, NOW, 3, size)
    assert SENDER.unpack_from(sender) == (sequence, ns_to_ntp(NOW), 1, 3)
    assert sender[44:] == bytes(size - 44)
    t3, t2, t1 = map(ns_to_ntp, (NOW + 2, NOW + 1, NOW))
    reflector = reflector_packet(own, NOW + 2, NOW + 1, sequence, NOW, 3)
    assert REFLECTOR.unpack(reflector) == (own, t3, 1, 3, t2, sequence, t1, 1, 255)
