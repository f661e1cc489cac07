"""Findings about the traffic of a case: loss, duplicates, reordering, interruption, further streams, ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import FLOW, Outcome, Role
from cprlib.traffic.control_run import LONGEST_STANDSTILL, TUN_FLOW_EXPIRE_MS
from cprlib.traffic.figures import Cause, Direction, HopName, PerDirection
from cprlib.verdict.findings import Finding, failed, inconclusive, passed
from cprlib.verdict.policy import CountLimits, InstrumentRules, Policy, matches
from cprlib.words import counted

LONGEST_STALL_RATIO = 3.0  # stall of a stream by pause: the time-out of TCP doubles, and its next try may fail too


def was_measured(case: CaseEvidence) -> bool:
    """False for a case without any figure of traffic: it ended before its measured run."""

    def figures(of: CaseEvidence) -> tuple[object, ...]:
        counts = (of.sent, of.loss, of.duplicates, of.reordered, of.interruption)
        return (*counts, of.streams, of.ledger, of.missing, of.unexplained, of.instrument)

    return figures(case) != figures(CaseEvidence(case.id, case.mechanism))


def instrument_findings(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    """Problems of the instrument; with any of them the traffic figures of the case are discarded."""
    seen, rules = case.instrument, policy.instrument
    yield from (inconclusive("instrument", problem) for problem in _instrument_problems(case, rules))
    if case.role != Role.CONTROL_RUN:
        if seen.control_run_lost:
            yield inconclusive("control-run", f"the control run lost {counted(seen.control_run_lost)}")
        elif rules.control_run_required and not (seen.control_run_sent and seen.control_run_lost == 0):
            yield inconclusive("control-run", "there was no control run in this session")
    yield from _ledger_problems(case, policy)


def _instrument_problems(case: CaseEvidence, rules: InstrumentRules) -> Iterator[str]:
    seen, longest_us = case.instrument, rules.pacing_p99_us
    if not case.sent:
        yield "no test packet was sent" if case.sent == 0 else "the packets sent were not counted"
    elif case.sent < rules.min_sent:
        yield f"{counted(case.sent)} sent, the policy requires at least {rules.min_sent:,}"
    for drops, who in ((seen.capture_drops, "the capture"), (seen.reflector_drops, "the reflector's socket")):
        if drops is None:
            yield f"drops of {who} were not read"
        elif drops:
            yield f"{who} lost {counted(drops)}"
    if not seen.reflector_alive:
        state = "did not answer at the end" if seen.reflector_alive is False else "was not asked at the end"
        yield f"the reflector {state}: its log proves nothing"
    if longest_us and seen.pacing_p99_us is None:
        yield "the pacing error was not measured"
    elif longest_us and seen.pacing_p99_us and seen.pacing_p99_us > longest_us:
        yield f"pacing error p99 {seen.pacing_p99_us:,.0f} µs, the policy allows {longest_us:,.0f}"


def _ledger_problems(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    absent = [name for name in case.instrument.missing_counters if not matches(name, policy.ledger.may_miss)]
    if absent:
        yield inconclusive("ledger", f"counters were absent: {', '.join(absent)}")
    if policy.ledger.required and (not case.ledger or case.unexplained is None):
        yield inconclusive("ledger", "there is no ledger")


def traffic_findings(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    """Findings from the figures; they count when the instrument is sound."""
    yield from _loss(case, policy)
    yield from _counts("duplicates", case.duplicates, policy.duplicates)
    for finding in _counts("reordered", case.reordered, policy.reordered):
        yield _of_reordering(case, policy, finding) if finding.outcome is Outcome.FAIL else finding
    unexplained = unexplained_packets(case)
    if unexplained is not None:
        text = f"{counted(unexplained)} missing that no hop accounts for"
        yield passed("ledger", text) if unexplained <= policy.ledger.unexplained else failed("ledger", text)
    yield from (replace(finding, family="stream") for finding in _streams(case, policy))


def unexplained_packets(case: CaseEvidence) -> int | None:
    """Missing packets that no hop accounts for; more than the case has when its rows do not add up to its loss."""
    if case.unexplained is None:
        return None
    explained = sum(row.count for row in case.missing if row.hop != HopName.UNEXPLAINED)
    return max(case.unexplained, (case.loss.total or 0) - explained)


def _with_limits(seen: PerDirection, limits: CountLimits) -> tuple[tuple[Direction, int | None, int], ...]:
    return (Direction.FORWARD, seen.forward, limits.forward), (Direction.RETURN, seen.return_, limits.return_)


def _loss(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    for direction, lost, limit in _with_limits(case.loss, policy.loss):
        if lost is None:
            yield inconclusive("loss", f"loss {direction} is not known", direction=direction)
        elif lost <= limit:
            yield passed("loss", f"{counted(lost)} lost {direction}", direction=direction)
        else:
            yield replace(_excess(case, policy, direction, lost, limit), direction=direction)


def _excess(case: CaseEvidence, policy: Policy, direction: Direction, lost: int, limit: int) -> Finding:
    """Loss above the limit: its cause decides between fail and inconclusive."""
    rows = [row for row in case.missing if row.direction == direction]
    others = sum(row.count for row in rows if row.cause in (Cause.GUEST, Cause.INSTRUMENT))
    full_queue = sum(row.count for row in rows if row.cause == Cause.OVERFLOW)
    places = "; ".join(f"{row.count:,} at {row.hop} {row.moment} ({row.reason})" for row in rows) or "place unknown"
    text = f"{counted(lost)} lost {direction}, the policy allows {limit:,}: {places}"
    if lost - others <= limit:
        return inconclusive("loss", f"{text}; lost by the guest or the instrument")
    if full_queue and case.overlong and lost - others - full_queue <= limit:
        return _of_overlong_pause(case, policy, failed("loss", text))
    return failed("loss", text)


def _of_reordering(case: CaseEvidence, policy: Policy, finding: Finding) -> Finding:
    """A finding that a pause explains in which tun forgot the flows, so that the next packets took another queue.

    These are packets to the guest, which has several queues. What tun remembers is the queue of the guest's answers
    (tun_flow_update(), drivers/net/tun.c), so that a pause of these counts, too.
    """
    pause = case.longest_pause_ms or 0
    forgot = pause > TUN_FLOW_EXPIRE_MS and case.parameters.queues != 1
    if not forgot or finding.direction == Direction.RETURN or policy.loss.overflow == "fail":
        return finding
    text = f"{finding.text}; in the pause of {pause:,.0f} ms tun forgot the flows ({TUN_FLOW_EXPIRE_MS:,.0f} ms)"
    return replace(finding, outcome=Outcome.INCONCLUSIVE, text=text)


def _of_overlong_pause(case: CaseEvidence, policy: Policy, finding: Finding) -> Finding:
    """A finding that a pause longer than the tap queue lasts explains; the policy says what such a pause is."""
    if not case.overlong or case.budget is None:
        return finding
    pause, room = case.longest_pause_ms or 0, case.budget.longest_pause_ms or 0
    text = f"{finding.text}; the pause of {pause:,.0f} ms was longer than the tap queue lasts ({room:,.0f} ms)"
    if policy.loss.overflow == "fail":
        return replace(finding, outcome=Outcome.FAIL, text=text)
    return replace(finding, outcome=Outcome.INCONCLUSIVE, text=f"{text}: lower the rate")


def _counts(name: str, seen: PerDirection, limits: CountLimits) -> Iterator[Finding]:
    for direction, count, limit in _with_limits(seen, limits):
        if count is None:
            yield inconclusive(name, f"{name} {direction} is not known", direction=direction)
        elif count > limit:
            yield failed(name, f"{count:,} {name} {direction}, the policy allows {limit:,}", direction=direction)
        else:
            yield passed(name, f"{count:,} {name} {direction}", direction=direction)


def _streams(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    limits = policy.streams
    overflowed = sum(row.count for row in case.missing if row.cause == Cause.OVERFLOW)
    for stream in case.streams:
        about = f"stream {stream.name}"
        if not stream.sent:
            yield inconclusive(about, "it carried nothing")
            continue
        if stream.kind == FLOW:
            continue  # its packets are in the figures of the case
        for name in ("lost",) if stream.kind == "tcp" else ("lost", "duplicates", "reordered"):
            count, limit = getattr(stream, name), getattr(limits, name)
            if count is None:
                yield inconclusive(about, f"{name}: not known")
                continue
            text = f"{count:,} {name} of {stream.sent:,}"
            if count <= limit:
                yield passed(about, text)
                continue
            finding = failed(about, f"{text}, the policy allows {limit:,}")
            if name == "reordered":
                finding = _of_reordering(case, policy, finding)
            elif name == "lost" and stream.kind != "tcp" and not stream.lost_from_guest and count <= overflowed:
                finding = _of_overlong_pause(case, policy, finding)
            yield finding
        longest_ms, stall_ms = limits.longest_stall_ms, stream.longest_stall_ms
        if longest_ms is None or (stall_ms is None and stream.kind != "tcp"):
            continue
        if stall_ms is None:
            yield inconclusive(about, "its longest stall was not measured")
        elif stall_ms > longest_ms:
            finding = failed(about, f"stalled for {stall_ms:,.0f} ms, the policy allows {longest_ms:,.0f}")
            explained = stall_ms <= LONGEST_STALL_RATIO * (case.longest_pause_ms or 0) + longest_ms
            yield _of_overlong_pause(case, policy, finding) if explained else finding


def interruption_findings(case: CaseEvidence, policy: Policy, baseline_ms: float | None) -> Iterator[Finding]:
    """Service interruption against the absolute limit and against the baseline."""
    limits = []
    if policy.interruption.max_ms is not None:
        limits.append((policy.interruption.max_ms, "the policy allows"))
    if policy.interruption.max_ratio is not None:
        if baseline_ms is None:
            yield inconclusive("interruption", "the policy compares with a baseline, but none was given")
        else:
            ratio = policy.interruption.max_ratio
            limits.append((ratio * baseline_ms, f"{ratio:g} times the baseline are"))
    for direction, seen in (("forward", case.interruption.forward), ("return", case.interruption.return_)):
        if seen.low_ms is None or seen.high_ms is None:
            if policy.interruption.required:
                yield inconclusive("interruption", f"interruption {direction} was not measured")
            continue
        shown = f"interruption {direction} {seen.low_ms:,.1f} to {seen.high_ms:,.1f} ms"
        exceeded = [(limit, words) for limit, words in limits if seen.high_ms > limit]
        gap_ms = case.instrument.control_run_interruption_ms or 0.0
        still_ms = gap_ms - (seen.resolution_ms or 0.0)  # at a low rate the gap is mostly the sending period
        lag_ms = (case.instrument.reflector_lag_ms or 0.0) if direction == Direction.RETURN else 0.0
        for limit, words in exceeded:
            text = f"{shown}, {words} {limit:,.0f} ms"
            if still_ms > seen.low_ms * LONGEST_STANDSTILL:
                text += f"; the longest gap in the control run was {gap_ms:,.0f} ms"
                yield inconclusive("interruption", text)
            elif seen.low_ms - lag_ms <= limit < seen.low_ms:
                text += f"; the guest answered packets up to {lag_ms:,.0f} ms late: it had too little processor time"
                yield inconclusive("interruption", text)
            else:
                yield failed("interruption", text) if seen.low_ms > limit else inconclusive("interruption", text)
        if not exceeded:
            yield passed("interruption", shown)
