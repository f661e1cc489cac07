"""Search the highest rate that a guest carries without loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.errors import UsageError
from cprlib.testing.measured_case import MeasuredCase, reflector_log
from cprlib.traffic.control_run import capacity_problems, check_instrument
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession

LEAST_PACKETS, LEAST_S = 500, 0.7  # of one run
LINGER_S = 1.0  # a search ends with trials that lose packets, which accuse no QEMU
SENT_S = 30.0
LARGEST_UNANSWERED_SHARE = 0.25  # of a trial's packets at its last send; more is a guest that is too slow
LEAST_SENT_SHARE = 0.9  # of a rate: below it the rate was not tried


@dataclass(frozen=True, slots=True)
class RateTrial:
    """A short run at one rate.

    :param lost: packets lost in either direction.
    :param reason: why this rate is not valid; empty when it is.
    """

    rate: float
    sent: int
    lost: int
    reason: str = ""

    @classmethod
    def of(cls, result: TrafficResult) -> RateTrial:
        """From a result.

        A rate is valid when it was reached and answered, without loss and without a problem of the instrument.
        """
        sender, rate = result.instrument.sender, result.settings.rate
        reasons = [
            *check_instrument(result).problems,
            *capacity_problems(result, LARGEST_UNANSWERED_SHARE * result.sent),
        ]
        if result.lost:
            reasons.append(f"{result.lost} of {result.sent} packets lost")
        if sender.first_ns is not None and sender.last_ns is not None and sender.last_ns > sender.first_ns:
            reached = (sender.sent - 1) * 1e9 / (sender.last_ns - sender.first_ns)
            if reached < LEAST_SENT_SHARE * rate:
                reasons.append(f"the sender itself reached only {reached:,.0f} packets/s")
        return cls(rate, result.sent, result.lost, "; ".join(reasons))

    @property
    def carried(self) -> bool:
        """True when nothing was lost at this rate."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class RateSearch:
    """The result of a search for the highest rate.

    :param highest: packets/s of the fastest trial without loss; None when there is none.
    :param refused: the slowest trial with loss; None when the limit was reached.
    """

    highest: float | None
    refused: RateTrial | None
    trials: tuple[RateTrial, ...]

    def __str__(self) -> str:
        """``2,500 packets/s carried without loss; at 3,000: 12 of 2,100 packets lost``."""
        text = "no rate was carried" if self.highest is None else f"{self.highest:,.0f} packets/s carried without loss"
        if self.refused is None:
            return f"{text}, the highest rate tried"
        return f"{text}; at {self.refused.rate:,.0f}: {self.refused.reason}"


def find_highest_rate(
    measure: Callable[[float], RateTrial], *, first: float = 500.0, limit: float = 16_000.0, bisections: int = 2
) -> RateSearch:
    """Search the highest rate without loss: double it until packets are lost, then bisect.

    :param measure: makes a short run at a rate in packets/s, see :meth:`RateTrial.of`.
    :param first: rate of the first trial; :param limit: highest rate to try.
    :param bisections: each halves the interval between the fastest rate without loss and the slowest with loss.
    :raises UsageError: the first rate is not above 0, or above the limit.
    """
    if not 0 < first <= limit:
        raise UsageError(f"search for a rate from {first:g} to {limit:g} packets/s", "the range is empty")
    trials: list[RateTrial] = []
    highest: float | None = None
    refused: RateTrial | None = None
    rate = first
    while refused is None and rate <= limit:
        trials.append(measure(rate))
        if trials[-1].carried:
            highest, rate = rate, 2 * rate
        else:
            refused = trials[-1]
    for _ in range(bisections if refused is not None else 0):
        assert refused is not None
        trial = measure(((highest or 0.0) + refused.rate) / 2)
        trials.append(trial)
        if trial.carried:
            highest = trial.rate
        else:
            refused = trial
    return RateSearch(highest, refused, tuple(trials))


def search_highest_rate(case: MeasuredCase, *, first: float, limit: float) -> RateSearch:
    """Search the highest rate (packets/s) that a case's guest carries without loss, by short runs of one flow."""
    guest, first_port = case.guest, case.ports.take()

    def measure(rate: float) -> RateTrial:
        guest.agent.reset_reflector()
        flows = flows_between(count=1, first_port=first_port)
        settings = StreamSettings(rate, max(LEAST_PACKETS, round(rate * LEAST_S)))
        with TrafficSession(guest.topology.station, flows, settings, keep_frames=0) as session:
            session.wait_sent(Deadline(SENT_S, "the stream to be sent"))
            session.finish(linger_s=LINGER_S)
        log, dropped = reflector_log(guest.agent)
        return RateTrial.of(session.result(log, reflector_drops=dropped))

    return find_highest_rate(measure, first=first, limit=limit)
