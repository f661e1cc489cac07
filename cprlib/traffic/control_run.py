"""Is a measurement valid? The instrument's own counters, and the control run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cprlib.traffic.figures import PerDirection
from cprlib.traffic.result import TrafficResult

PACING_P99_LIMIT_NS = 20_000_000  # above it a gap in the answers may be the sender's own
LONGEST_STANDSTILL = 0.05  # share of an interruption; a machine whose control run has a longer gap may be its cause
LARGEST_BACKLOG = 0.25  # of the tap queues: what may wait at the end of a measured run because the guest is slow
STALL_S = 0.25  # of a busy machine at the last send of a control run
TUN_FLOW_EXPIRE_MS = 3000.0  # drivers/net/tun.c: a flow without answers may take another queue, and be reordered
LEAST_CONTROL_SHARE = 0.5  # of a measured run's packets: a shorter control run proves nothing about it


@dataclass(frozen=True, slots=True)
class Validity:
    """Whether a measurement is valid.

    :param problems: why not; empty when it is. A measurement with problems is inconclusive, neither pass nor fail.
    :param notes: limits that do not affect the packet counts: no real-time scheduling, late sending.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def conclusive(self) -> bool:
        return not self.problems


def check_instrument(result: TrafficResult) -> Validity:
    """Check the instrument by its own counters. Packets lost on the path are not a problem of the instrument."""
    report = result.instrument
    problems, notes = _reflector_problems(result), [*report.sender.notes, *report.capture.notes]
    problems += capture_problems(result)
    if report.sender.refused:
        refused = ", ".join(f"{name} {count} times" for name, count in report.sender.refused.items())
        notes.append(f"the kernel refused to send: {refused}")
    if report.sender.pacing_p99_ns > PACING_P99_LIMIT_NS:
        notes.append(f"packets were late by {report.sender.pacing_p99_ns / 1e6:.1f} ms (p99)")
    return Validity(tuple(problems), tuple(notes))


def capture_problems(result: TrafficResult) -> list[str]:
    """Answers that the capture itself lost or missed: they count as lost on the path otherwise."""
    capture, problems = result.instrument.capture, []
    if capture.kernel_drops:
        problems.append(f"the capture's ring dropped {capture.kernel_drops} frames")
    if capture.faults:
        problems.append(f"{capture.faults} blocks of the capture could not be read")
    if result.instrument.still_arriving:
        problems.append("answers still arrived when the capture ended")
    return problems


def capacity_problems(result: TrafficResult, limit: float) -> list[str]:
    """A guest that cannot answer at the rate: nothing is lost while its queue has room, then the queue overflows.

    :param limit: packets that may be unanswered at the last send; a stall that has ended before does not count.
    """
    sent, unanswered, rate = result.sent, result.unanswered_at_the_end, result.settings.rate
    if unanswered <= limit:
        return []
    return [f"the guest answered {rate * (sent - unanswered) / sent:,.0f} of {rate:,.0f} packets/s: lower the rate"]


def _reflector_problems(result: TrafficResult) -> list[str]:
    report, problems = result.instrument, []
    if report.log_lines is None:
        problems.append("the reflector's log is missing")
    elif result.answered and not any(flow.forward.sent - flow.forward.lost for flow in result.flows):
        problems.append("the reflector's log has none of the flows")
    if report.reflector_drops is None:
        problems.append("the drops of the reflector's socket are unknown")
    elif report.reflector_drops:
        problems.append(f"the reflector's socket dropped {report.reflector_drops} packets")
    if not any(flow.answers for flow in result.flows):
        problems.append("no answer came back")
    if report.log_invalid:
        problems.append(f"the reflector's log has {report.log_invalid} packets never sent")
    return problems


@dataclass(frozen=True, slots=True)
class ControlRun:
    """Runs without an update, in the same session, at the same rate and together of the same length.

    :param results: of the runs before the updates: they show what the machine does by itself.
    :param later: a further run, with the guest after its updates: what it shows may be QEMU's, so it adds its length
        only.
    """

    results: tuple[TrafficResult, ...]
    later: TrafficResult | None = None

    @property
    def _all(self) -> tuple[TrafficResult, ...]:
        return self.results if self.later is None else (*self.results, self.later)

    @property
    def sent(self) -> int:
        return sum(result.sent for result in self._all)

    @property
    def lost(self) -> int:
        """Packets lost in both directions; must be 0."""
        return sum(result.lost for result in self.results)

    @property
    def damaged(self) -> int:
        """Answers damaged on the way; must be 0."""
        return sum(result.damaged for result in self.results)

    @property
    def rate(self) -> float:
        """Packets/s of the slowest."""
        return min(result.settings.rate for result in self._all)

    @property
    def floor_ms(self) -> float | None:
        """The longest gap, although nothing was interrupted: a shorter interruption cannot be claimed."""
        both = [(result.interruption.forward, result.interruption.return_) for result in self.results]
        return max((each.high_ms for pair in both for each in pair if each.high_ms is not None), default=None)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why a measurement after this control run is inconclusive; empty when it is not."""
        found = [problem for result in self._all for problem in check_instrument(result).problems]
        for what, count in (
            ("lost", self.lost),
            ("damaged", self.damaged),
            ("duplicated", _packets(result.duplicates for result in self.results)),
            ("reordered", _packets(result.reordered for result in self.results)),
        ):
            if count:
                found.append(f"{count} of {self.sent} packets {what} without any update")
        return tuple(f"control run: {problem}" for problem in dict.fromkeys(found))


def _packets(counts: Iterable[PerDirection]) -> int:
    return sum((count.forward or 0) + (count.return_ or 0) for count in counts)


def check_measurement(result: TrafficResult, control_run: ControlRun | None, queue_length: int) -> Validity:
    """Check a measured run: its own instrument, and the control run before it.

    The control run must be at least as fast and about as long as the measured run, and the guest fast enough for it.

    :param queue_length: packets that a tap queue holds.
    """
    own = check_instrument(result)
    if control_run is None:
        return Validity((*own.problems, "there was no control run"), own.notes)
    problems = [*own.problems, *control_run.problems]
    room = LARGEST_BACKLOG * queue_length * len(result.flows)
    for run in control_run.results:
        limit = max(STALL_S * run.settings.rate, room * run.sent / result.sent)
        problems += [f"control run: {problem}" for problem in capacity_problems(run, limit)]
    if control_run.rate < result.settings.rate:
        problems.append(
            f"the control run had {control_run.rate:g} packets/s, the measured run {result.settings.rate:g} packets/s"
        )
    if control_run.sent < LEAST_CONTROL_SHARE * result.sent:
        problems.append(f"the control run sent {control_run.sent} packets, the measured run {result.sent}")
    return Validity(tuple(problems), own.notes)
