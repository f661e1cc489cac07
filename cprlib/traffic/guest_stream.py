"""The stream that starts in the guest: its figures from the guest's log of sending and the station's reflector.

Forward is out of the guest here, return is back into it. Arrivals at the station have the host's clock, which does not
stand still during an update: so the interruption is taken there, and shows how long nothing came out of the guest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cprlib.traffic import metrics
from cprlib.traffic.records import Reflection


@dataclass(frozen=True, slots=True)
class GuestStream:
    """Figures of one stream that started in the guest.

    :param sent: packets sent by the guest.
    :param missing_out: numbers of packets that never came to the station (RFC 7680), :param missing_back: numbers of
        packets whose answers never came back.
    :param interruption: by time stamps (RFC 6201): the guest's for sending, the host's for arrival, of which only
        differences are used. A guest's clock that stood still shows here in full, because no packet was sent meanwhile.
    """

    sent: int
    missing_out: tuple[int, ...]
    missing_back: tuple[int, ...]
    duplicates_out: int
    duplicates_back: int
    reordering_out: metrics.Reordering
    reordering_back: metrics.Reordering
    interruption: metrics.TimestampInterruption | None

    @property
    def lost(self) -> int:
        """Packets lost in either direction."""
        return len(self.missing_out) + len(self.missing_back)


def measure_guest_stream(
    sent_ns: Sequence[int], answers: Iterable[tuple[int, int]], log: Iterable[Reflection]
) -> GuestStream:
    """Put the three records of one stream together.

    :param sent_ns: the guest's stamps T1 by sequence number.
    :param answers: sender's and reflector's number of each answer that the guest received, in the order of arrival.
    :param log: what the station's :class:`~cprlib.traffic.reflector.StampReflector` logged of this stream.
    """
    lines = sorted(log, key=lambda line: line.reflector_sequence)
    order = [line.sender_sequence for line in lines]
    came_back = [reflector for _, reflector in answers]
    back = set(came_back)
    return GuestStream(
        sent=len(sent_ns),
        missing_out=metrics.missing_sequences(len(sent_ns), order),
        missing_back=tuple(line.sender_sequence for line in lines if line.reflector_sequence not in back),
        duplicates_out=metrics.count_duplicates(order),
        duplicates_back=metrics.count_duplicates(came_back),
        reordering_out=metrics.reordering(order),
        reordering_back=metrics.reordering(came_back),
        interruption=metrics.interruption_by_timestamps(
            sent_ns, [(line.sender_sequence, line.received_ns) for line in lines]
        ),
    )
