"""May the figures be believed? The instrument judged by its own counters and by a run without update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cprlib.errors import UsageError
from cprlib.traffic.result import TrafficResult

PACING_P99_LIMIT_NS = 20_000_000  # above it a gap in the answers may be the sender's own
LEAST_CONTROL_SHARE = 0.5  # of a measured run's packets: a shorter run without update does not vouch for it
LEAST_PART_SENT = 0.9  # of a rate: below it the rate was not tried


@dataclass(frozen=True, slots=True)
class Trust:
    """Whether a measurement may be believed.

    :param doubts: why not; empty when it may. A doubted measurement is inconclusive, neither pass nor fail.
    :param notes: limits that do not spoil the count of packets: no real-time scheduling, late sending.
    """

    doubts: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def conclusive(self) -> bool:
        """True when there is no doubt."""
        return not self.doubts


def doubt_instrument(result: TrafficResult) -> Trust:
    """Doubts about the instrument itself, from its own counters; packets lost on the path are no reason for doubt."""
    report = result.instrument
    doubts, notes = _doubt_reflector(result), [*report.sender.notes, *report.capture.notes]
    if report.capture.kernel_drops:
        doubts.append(f"the capture's ring lost {report.capture.kernel_drops} frames")
    if report.capture.faults:
        doubts.append(f"{report.capture.faults} blocks of the capture could not be read")
    if report.sender.refused:
        refused = ", ".join(f"{name} {count} times" for name, count in report.sender.refused.items())
        notes.append(f"the kernel refused to send: {refused}")
    if report.sender.pacing_p99_ns > PACING_P99_LIMIT_NS:
        notes.append(f"packets were late by {report.sender.pacing_p99_ns / 1e6:.1f} ms (p99)")
    return Trust(tuple(doubts), tuple(notes))


def _doubt_reflector(result: TrafficResult) -> list[str]:
    report, doubts = result.instrument, []
    if report.log_lines is None:
        doubts.append("the reflector's log is missing")
    elif result.answered and not any(flow.forward.sent - flow.forward.lost for flow in result.flows):
        doubts.append("the reflector's log knows none of the flows")
    if report.reflector_drops is None:
        doubts.append("the reflector's own drops are not known")
    elif report.reflector_drops:
        doubts.append(f"the reflector's socket lost {report.reflector_drops} packets")
    if not any(flow.answers for flow in result.flows):
        doubts.append("no answer came back at all")
    for flow in result.flows:
        if flow.nonsense:
            doubts.append(f"{flow.flow.name}: {flow.nonsense} answers to packets never sent")
        if flow.not_in_log:
            doubts.append(f"{flow.flow.name}: {flow.not_in_log} answers that the reflector's log does not know")
    if report.log_nonsense:
        doubts.append(f"the reflector's log has {report.log_nonsense} packets never sent")
    return doubts


@dataclass(frozen=True, slots=True)
class ControlRun:
    """What a run without update showed, in the same session, at the same rate and for the same length.

    :param sent, lost, duplicates, reordered: packets in both directions; all but the first have to be 0.
    :param rate: packets/s.
    :param floor_ms: the longest interruption seen although there was none: nothing shorter can be claimed.
    :param pacing_p99_ns: how late packets were sent.
    """

    sent: int
    lost: int
    duplicates: int
    reordered: int
    rate: float
    length_s: float
    floor_ms: float | None
    pacing_p99_ns: int
    trust: Trust

    @classmethod
    def of(cls, result: TrafficResult) -> ControlRun:
        """Read a result as a control run."""
        highs = [result.interruption_forward.high_ms, result.interruption_return.high_ms]
        return cls(
            sent=result.sent,
            lost=result.lost,
            duplicates=(result.duplicates_forward or 0) + (result.duplicates_return or 0),
            reordered=(result.reordered_forward or 0) + (result.reordered_return or 0),
            rate=result.settings.rate,
            length_s=result.sent / result.settings.rate,
            floor_ms=max((high for high in highs if high is not None), default=None),
            pacing_p99_ns=result.instrument.sender.pacing_p99_ns,
            trust=doubt_instrument(result),
        )

    def and_then(self, later: ControlRun) -> ControlRun:
        """This and another run without update of one session taken together: the worse of each figure."""
        floors = [floor for floor in (self.floor_ms, later.floor_ms) if floor is not None]
        return ControlRun(
            sent=self.sent + later.sent,
            lost=self.lost + later.lost,
            duplicates=self.duplicates + later.duplicates,
            reordered=self.reordered + later.reordered,
            rate=min(self.rate, later.rate),
            length_s=self.length_s + later.length_s,
            floor_ms=max(floors, default=None),
            pacing_p99_ns=max(self.pacing_p99_ns, later.pacing_p99_ns),
            trust=Trust(
                tuple(dict.fromkeys((*self.trust.doubts, *later.trust.doubts))),
                tuple(dict.fromkeys((*self.trust.notes, *later.trust.notes))),
            ),
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why nothing may be concluded after this control run; empty when all is well."""
        found = list(self.trust.doubts)
        for count, what in ((self.lost, "lost"), (self.duplicates, "duplicated"), (self.reordered, "reordered")):
            if count:
                found.append(f"{count} of {self.sent} packets {what} without any update")
        return tuple(f"control run: {doubt}" for doubt in found)


def judge(result: TrafficResult, control_run: ControlRun | None) -> Trust:
    """Whether a measured run may be believed: its own instrument, and the control run before it.

    The control run has to be at least as fast and about as long: a slower or shorter one proves nothing about this run.
    """
    own = doubt_instrument(result)
    if control_run is None:
        return Trust((*own.doubts, "there was no control run"), own.notes)
    doubts = [*own.doubts, *control_run.doubts]
    if control_run.rate < result.settings.rate:
        doubts.append(
            f"the control run had {control_run.rate:g} packets/s, the measured run {result.settings.rate:g} packets/s"
        )
    if control_run.sent < LEAST_CONTROL_SHARE * result.sent:
        doubts.append(f"the control run sent {control_run.sent} packets, the measured run {result.sent}")
    return Trust(tuple(doubts), own.notes)


@dataclass(frozen=True, slots=True)
class RateTrial:
    """One short run at one rate.

    :param lost: packets lost in either direction.
    :param reason: why the rate was not carried; empty when it was.
    """

    rate: float
    sent: int
    lost: int
    reason: str = ""

    @classmethod
    def of(cls, result: TrafficResult) -> RateTrial:
        """Read a result: a rate is carried that was really sent, without loss or doubt about the instrument."""
        sender, rate = result.instrument.sender, result.settings.rate
        reasons = list(doubt_instrument(result).doubts)
        if result.lost:
            reasons.append(f"{result.lost} of {result.sent} packets lost")
        if sender.first_ns is not None and sender.last_ns is not None and sender.last_ns > sender.first_ns:
            reached = (sender.sent - 1) * 1e9 / (sender.last_ns - sender.first_ns)
            if reached < LEAST_PART_SENT * rate:
                reasons.append(f"the sender itself reached only {reached:,.0f} packets/s")
        return cls(rate, result.sent, result.lost, "; ".join(reasons))

    @property
    def carried(self) -> bool:
        """Whether nothing was lost at this rate."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class RateSearch:
    """What a search for the highest rate found.

    :param highest: packets/s of the fastest trial that was carried; None when not even the first was.
    :param refused: the slowest trial that was not carried; None when the limit was reached.
    """

    highest: float | None
    refused: RateTrial | None
    trials: tuple[RateTrial, ...]

    def __str__(self) -> str:
        """``2,500 packets/s carried without loss; at 3,000: 12 of 2,100 packets lost``."""
        words = "no rate was carried" if self.highest is None else f"{self.highest:,.0f} packets/s carried without loss"
        if self.refused is None:
            return f"{words}, which is as far as was looked"
        return f"{words}; at {self.refused.rate:,.0f}: {self.refused.reason}"


def find_highest_rate(
    measure: Callable[[float], RateTrial], *, first: float = 500.0, limit: float = 16_000.0, bisections: int = 2
) -> RateSearch:
    """The highest rate carried without loss: doubled until one is not carried, then bisected between the two.

    :param measure: makes a short run at a rate (packets/s), see :meth:`RateTrial.of`.
    :param first: rate of the first trial; :param limit: no trial is faster.
    :param bisections: each halves the distance between the fastest rate carried and the slowest one not.
    :raises UsageError: the first rate is not above 0 or above the limit.
    """
    if not 0 < first <= limit:
        raise UsageError(f"search for a rate from {first:g} to {limit:g} packets/s", "nothing lies in between")
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
