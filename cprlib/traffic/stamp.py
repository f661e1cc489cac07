"""STAMP test packets (RFC 8762, unauthenticated mode): formats for the hot path, and packets as values.

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
from dataclasses import dataclass

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


class Malformed(ValueError):
    """Bytes that are not a STAMP test packet."""


def _check_size(size: int) -> None:
    if size < MINIMUM_SIZE:
        raise Malformed(f"{size} bytes are fewer than {MINIMUM_SIZE}")


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


@dataclass(frozen=True, slots=True)
class SenderPacket:
    """A test packet of the session-sender.

    :param sent_ns: T1, CLOCK_REALTIME.
    :param ssid: session identifier (RFC 8972 section 3); 0 is none, as in RFC 8762.
    """

    sequence: int
    sent_ns: int
    ssid: int = 0

    def encode(self, size: int = MINIMUM_SIZE) -> bytes:
        """The UDP payload, padded with zeros to ``size`` bytes."""
        _check_size(size)
        return SENDER.pack(self.sequence, ns_to_ntp(self.sent_ns), ERROR_ESTIMATE, self.ssid).ljust(size, b"\0")

    @classmethod
    def decode(cls, payload: bytes) -> SenderPacket:
        """From a UDP payload.

        :raises Malformed: fewer than 44 bytes.
        """
        _check_size(len(payload))
        sequence, t1, _, ssid = SENDER.unpack_from(payload)
        return cls(sequence, ntp_to_ns(t1), ssid)


@dataclass(frozen=True, slots=True)
class ReflectorPacket:
    """A test packet of the session-reflector.

    :param sequence: the reflector's own (stateful mode): counts its packets in this session from 0.
    :param sent_ns: T3, :param received_ns: T2, on the reflector's clock; :param sender_sent_ns: T1, on the sender's.
    :param sender_ttl: TTL or hop limit of the sender's packet on arrival.
    """

    sequence: int
    sent_ns: int
    received_ns: int
    sender_sequence: int
    sender_sent_ns: int
    sender_ttl: int = 255
    ssid: int = 0

    def encode(self, size: int = MINIMUM_SIZE) -> bytes:
        """The UDP payload, padded with zeros to ``size`` bytes (symmetric with the sender's packet)."""
        _check_size(size)
        return REFLECTOR.pack(
            self.sequence,
            ns_to_ntp(self.sent_ns),
            ERROR_ESTIMATE,
            self.ssid,
            ns_to_ntp(self.received_ns),
            self.sender_sequence,
            ns_to_ntp(self.sender_sent_ns),
            ERROR_ESTIMATE,
            self.sender_ttl,
        ).ljust(size, b"\0")

    @classmethod
    def decode(cls, payload: bytes) -> ReflectorPacket:
        """From a UDP payload.

        :raises Malformed: fewer than 44 bytes.
        """
        _check_size(len(payload))
        sequence, t3, _, ssid, t2, sender_sequence, t1, _, ttl = REFLECTOR.unpack_from(payload)
        return cls(sequence, ntp_to_ns(t3), ntp_to_ns(t2), sender_sequence, ntp_to_ns(t1), ttl, ssid)
