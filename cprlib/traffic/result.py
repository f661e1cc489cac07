"""The figures of a stream, per flow and per direction; computed by :mod:`cprlib.traffic.evaluation`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cprlib.traffic.capture import CaptureReport
from cprlib.traffic.clock import ClockModel
from cprlib.traffic.figures import Direction, Interruption, InterruptionPerDirection, PerDirection
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.metrics import TimestampInterruption, stalled_ms
from cprlib.traffic.sender import SenderReport


@dataclass(frozen=True, slots=True)
class DirectionResult:
    """One direction of one flow. Forward is towards the reflector, return is back from it.

    Packets are listed by their sequence numbers of the *sender*. None is unknown: there is no reflector's log.

    :param sent: packets sent in this direction; on return these are the reflector's answers.
    :param lost: RFC 7680; :param missing: the packets.
    :param missing_ns: when each of them was sent in this direction, on the host's clock (T1, or T3).
    :param copies: RFC 5560; :param late: reordered packets, RFC 4737.
    :param interruption: by time stamps on the host's clock, at the end of this direction; None when unknown.
    """

    sent: int
    lost: int
    interruption: TimestampInterruption | None
    copies: tuple[int, ...] | None = None
    late: tuple[int, ...] | None = None
    missing: tuple[int, ...] | None = None
    missing_ns: tuple[int, ...] = ()

    @property
    def duplicates(self) -> int | None:
        return None if self.copies is None else len(self.copies)

    @property
    def reordered(self) -> int | None:
        return None if self.late is None else len(self.late)


@dataclass(frozen=True, slots=True)
class FlowResult:
    """One flow.

    :param sent_ns: T1 by sequence number.
    :param reflected_ns: T2 on the *host's* clock; None for a packet that never arrived there (without a log: that was
        not answered).
    :param returned_ns: T4 of the first answer; None without one.
    :param undetermined: packets lost in an unknown direction; 0 with a log.
    :param missing: sequence numbers of packets without an answer.
    :param invalid: answers to packets never sent, or with a wrong T1.
    :param not_in_log: answers that are not in the reflector's log.
    """

    flow: Flow
    sent_ns: Sequence[int]
    reflected_ns: Sequence[int | None]
    returned_ns: Sequence[int | None]
    forward: DirectionResult
    returning: DirectionResult
    undetermined: int
    missing: tuple[int, ...]
    answers: int
    invalid: int
    not_in_log: int

    @property
    def directions(self) -> dict[Direction, DirectionResult]:
        return {Direction.FORWARD: self.forward, Direction.RETURN: self.returning}


@dataclass(frozen=True, slots=True)
class InstrumentReport:
    """The instrument's own account; checked by :mod:`cprlib.traffic.control_run`.

    :param reflector_drops: packets that the reflector's socket dropped; None when unknown.
    :param reflector_lag_ns: the longest time from a packet's reception to its answer (T3 - T2); None without a log, and
        when the reflector waited for room in the NIC: then the time may be QEMU's.
    :param log_lines: lines of the reflector's log, None without one; :param log_foreign: lines of other flows;
        :param log_invalid: lines with sequence numbers never sent.
    :param still_arriving: answers still arrived when the capture ended.
    """

    sender: SenderReport
    capture: CaptureReport
    clock: ClockModel | None
    reflector_drops: int | None
    reflector_lag_ns: int | None
    log_lines: int | None
    log_foreign: int
    log_invalid: int
    still_arriving: bool


@dataclass(frozen=True, slots=True)
class TrafficResult:
    """The figures of one stream."""

    settings: StreamSettings
    flows: tuple[FlowResult, ...]
    instrument: InstrumentReport

    @property
    def sent(self) -> int:
        """Test packets that the sender's kernel accepted."""
        return sum(len(flow.sent_ns) for flow in self.flows)

    def stalled_ms(self, start_ns: int, end_ns: int) -> float:
        """For how long the sender stood still in a period, in ms.

        :param start_ns, end_ns: the period (CLOCK_REALTIME).
        """
        sent = itertools.chain.from_iterable(flow.sent_ns for flow in self.flows)
        return stalled_ms(sent, 1e9 / self.settings.rate, start_ns, end_ns)

    @property
    def answered(self) -> int:
        """Packets with at least one answer."""
        return self.sent - sum(len(flow.missing) for flow in self.flows)

    @property
    def unanswered_at_the_end(self) -> int:
        """Packets that had no answer yet when the last one was sent."""
        end_ns = max(flow.sent_ns[-1] for flow in self.flows if flow.sent_ns)
        return sum(time_ns is None or time_ns > end_ns for flow in self.flows for time_ns in flow.returned_ns)

    @property
    def damaged(self) -> int:
        """Answers that the reflector has not sent so: damaged on the way; the packets they belong to count as lost."""
        return sum(flow.invalid + flow.not_in_log for flow in self.flows)

    @property
    def lost_forward(self) -> int:
        """Packets that never arrived at the reflector."""
        return sum(flow.forward.lost for flow in self.flows)

    @property
    def lost_return(self) -> int:
        """Answers that never came back."""
        return sum(flow.returning.lost for flow in self.flows)

    @property
    def undetermined(self) -> int:
        """Packets lost in an unknown direction; 0 with the reflector's log."""
        return sum(flow.undetermined for flow in self.flows)

    @property
    def lost(self) -> int:
        """Packets lost in either direction."""
        return self.lost_forward + self.lost_return + self.undetermined

    @property
    def loss(self) -> PerDirection:
        """One-way loss (RFC 7680); not known when packets are :attr:`undetermined`."""
        return PerDirection() if self.undetermined else PerDirection(self.lost_forward, self.lost_return)

    @property
    def duplicates(self) -> PerDirection:
        """Copies (RFC 5560); forward is not known without the reflector's log."""
        return self._sums(lambda direction: direction.duplicates)

    @property
    def reordered(self) -> PerDirection:
        """Packets out of order (RFC 4737); forward is not known without the reflector's log."""
        return self._sums(lambda direction: direction.reordered)

    def _sums(self, count: Callable[[DirectionResult], int | None]) -> PerDirection:
        counts = [[count(flow.directions[direction]) for flow in self.flows] for direction in Direction]
        return PerDirection(*(None if None in each else sum(value or 0 for value in each) for each in counts))

    @property
    def interruption(self) -> InterruptionPerDirection:
        """Service interruption (RFC 6201) of the whole stream."""
        return InterruptionPerDirection(
            self.longest_interruption([flow.forward.interruption for flow in self.flows], self.lost_forward),
            self.longest_interruption([flow.returning.interruption for flow in self.flows], self.lost_return),
        )

    def longest_interruption(self, measured: Sequence[TimestampInterruption | None], lost: int) -> Interruption:
        """The longest interruption of all flows in one direction; its time stamps are not known unless all are.

        One flow may have the largest lower end of its range, another the largest upper end.

        :param measured: the interruption of each flow.
        :param lost: packets of all flows.
        """
        known = [entry for entry in measured if entry is not None]
        complete = bool(known) and len(known) == len(measured)
        return Interruption(
            low_ms=max(entry.low_ns for entry in known) / 1e6 if complete else None,
            high_ms=max(entry.high_ns for entry in known) / 1e6 if complete else None,
            frame_loss_ms=lost / self.settings.rate * 1000,  # frame-loss based reset time, RFC 6201 section 1.3
            resolution_ms=self.settings.period_ns * len(self.flows) / 1e6,
        )
