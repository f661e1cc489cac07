"""STAMP test packets (RFC 8762, unauthenticated mode): their formats.

Layout in bytes, network byte order. Both kinds have 44 bytes; padding may follow (RFC 8762 section 4.2.1)::

    session-sender (section 4.2.1)       session-reflector (section 4.3.1)
     0  sequence number           4        0  sequence number of the reflector   4
     4  time stamp T1             8        4  time stamp T3 (sent)               8
    12  error estimate            2       12  error estimate                     2
    14  SSID (RFC 8972), else 0   2       14  SSID (RFC 8972), else 0            2
    16  must be zero             28       16  receive time stamp T2              8
                                          24  sequence number of the sender      4
                                          28  time stamp of the sender T1        8
                                          36  error estimate of the sender       2
                                          38  must be zero                       2
                                          40  TTL or hop limit as received       1
                                          41  must be zero                       3

Time stamps are NTP's 64 bits (RFC 5905 section 6): seconds since 1900 and a binary fraction of 2^-32 s.
"""

from __future__ import annotations

import struct

from cprlib.linux.libc import NANOSECONDS

STAMP_PORT = 862  # RFC 8762 section 4.1
MINIMUM_SIZE = 44  # bytes of UDP payload
SEQUENCE_OFFSET = 0
TIMESTAMP_OFFSET = 4
NTP_EPOCH_S = 2_208_988_800  # 1900-01-01 to 1970-01-01, RFC 5905 section 6
UNMEASURED_SSID = 0xFFFF  # of packets that enter no figure; no measured flow has it
#: RFC 4656 section 4.1.2: S=0 not synchronised, Z=0 NTP format, scale 0, multiplier 1 (0 would be invalid).
ERROR_ESTIMATE = 0x0001

SENDER = struct.Struct("!IQHH28x")
REFLECTOR = struct.Struct("!IQHHQIQH2xB3x")
_ERA = 1 << 32


def ns_to_ntp(time_ns: int) -> int:
    """Nanoseconds since 1970 as a 64-bit NTP time stamp; wraps with NTP's era in 2036."""
    seconds, rest = divmod(time_ns, NANOSECONDS)
    return ((seconds + NTP_EPOCH_S) % _ERA) << 32 | (rest << 32) // NANOSECONDS


def ntp_to_ns(stamp: int) -> int:
    """A 64-bit NTP time stamp as nanoseconds since 1970, between 1968 and 2104 (RFC 4330 section 3).

    Exact inverse of :func:`ns_to_ntp`: the unit of the fraction is 0.23 ns, so rounding yields the same nanosecond.
    """
    seconds = stamp >> 32
    if seconds < 1 << 31:  # era 1, which begins in 2036
        seconds += _ERA
    fraction = stamp & 0xFFFFFFFF
    return (seconds - NTP_EPOCH_S) * NANOSECONDS + ((fraction * NANOSECONDS + (1 << 31)) >> 32)


def sender_packet(sequence: int, sent_ns: int, ssid: int = 0, size: int = MINIMUM_SIZE) -> bytes:
    """The UDP payload of a session-sender's test packet, padded with zeros to ``size`` bytes.

    :param sent_ns: T1, CLOCK_REALTIME.
    :param ssid: session identifier (RFC 8972 section 3); 0 is none, as in RFC 8762.
    """
    return SENDER.pack(sequence, ns_to_ntp(sent_ns), ERROR_ESTIMATE, ssid).ljust(size, b"\0")


def reflector_packet(sequence: int, t3_ns: int, t2_ns: int, sender_sequence: int, t1_ns: int, ssid: int = 0) -> bytes:
    """The UDP payload of a session-reflector's answer with TTL 255.

    :param sequence: the reflector's own (stateful mode).
    """
    t3, t2, t1 = map(ns_to_ntp, (t3_ns, t2_ns, t1_ns))
    return REFLECTOR.pack(sequence, t3, ERROR_ESTIMATE, ssid, t2, sender_sequence, t1, ERROR_ESTIMATE, 255)
