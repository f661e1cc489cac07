"""May the figures be believed? The instrument judged by its own counters and by a run without update."""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.traffic.result import TrafficResult

PACING_P99_LIMIT_NS = 20_000_000  # above it a gap in the answers may be the sender's own


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
class Calibration:
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
    def of(cls, result: TrafficResult) -> Calibration:
        """Read a result as a calibration."""
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

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why nothing may be concluded after this calibration; empty when all is well."""
        found = list(self.trust.doubts)
        for count, what in ((self.lost, "lost"), (self.duplicates, "duplicated"), (self.reordered, "reordered")):
            if count:
                found.append(f"{count} of {self.sent} packets {what} without any update")
        return tuple(f"calibration: {doubt}" for doubt in found)


def judge(result: TrafficResult, calibration: Calibration | None) -> Trust:
    """Whether a measured run may be believed: its own instrument, and the calibration before it.

    The calibration has to be at least as fast and about as long: a slower or shorter one proves nothing about this run.
    """
    own = doubt_instrument(result)
    if calibration is None:
        return Trust((*own.doubts, "there was no calibration run"), own.notes)
    doubts = [*own.doubts, *calibration.doubts]
    if calibration.rate < result.settings.rate:
        doubts.append(
            f"calibrated at {calibration.rate:g} packets/s only, measured at {result.settings.rate:g} packets/s"
        )
    if calibration.sent < 0.5 * result.sent:
        doubts.append(f"calibrated with {calibration.sent} packets only, measured with {result.sent}")
    return Trust(tuple(doubts), own.notes)
