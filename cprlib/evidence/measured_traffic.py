"""Measured traffic in the evidence: figures of the stream, the instrument, the ledger, packets of the timeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cprlib.evidence.case import CaseEvidence, Packets
from cprlib.evidence.records import FLOW, INSTRUMENT_CHECK, Budget, Check, InstrumentHealth, Outcome, Role, Stream
from cprlib.traffic.control_run import TUN_FLOW_EXPIRE_MS, ControlRun, check_instrument, check_measurement
from cprlib.traffic.ledger import GuestStop, Ledger
from cprlib.traffic.result import TrafficResult
from cprlib.update.events import Step
from cprlib.update.results import UpdateResult
from cprlib.words import counted


def _instrument_of(result: TrafficResult, control_run: ControlRun | None) -> InstrumentHealth:
    report = result.instrument
    return InstrumentHealth(
        capture_drops=report.capture.kernel_drops,
        reflector_drops=report.reflector_drops,
        reflector_lag_ms=None if report.reflector_lag_ns is None else round(report.reflector_lag_ns / 1e6, 3),
        reflector_alive=report.log_lines is not None,
        pacing_p99_us=report.sender.pacing_p99_ns / 1000,
        control_run_sent=control_run.sent if control_run else None,
        control_run_lost=control_run.lost if control_run else None,
        control_run_interruption_ms=control_run.floor_ms if control_run else None,
        clock_offset_us=report.clock.segments[0].offset_ns / 1000 if report.clock else None,
        clock_error_us=report.clock.error_ns / 1000 if report.clock else None,
    )


def with_traffic(
    evidence: CaseEvidence, result: TrafficResult, control_run: ControlRun | None, queue_length: int
) -> CaseEvidence:
    """The evidence with the figures of a measured run.

    :param queue_length: packets that a tap queue holds; the budget is this divided by the rate of one flow.
    """
    # a control run has no control run before it: only its own counters are checked
    own = evidence.role is Role.CONTROL_RUN
    validity = check_instrument(result) if own else check_measurement(result, control_run, queue_length)
    outcome = Outcome.PASS if validity.conclusive else Outcome.INCONCLUSIVE
    check = Check(INSTRUMENT_CHECK, outcome, "no problem", "; ".join(validity.problems) or "no problem")
    flows = tuple(
        Stream(
            name=flow.flow.name,
            kind=FLOW,
            sent=len(flow.sent_ns),
            lost=len(flow.missing),
            duplicates=flow.returning.duplicates,
            reordered=flow.returning.reordered,
        )
        for flow in result.flows
    )
    return replace(
        evidence,
        sent=result.sent,
        loss=result.loss,
        duplicates=result.duplicates,
        reordered=result.reordered,
        interruption=result.interruption,
        budget=Budget(queue_length, result.settings.rate / len(result.flows)),
        streams=(*evidence.streams, *(flows if len(flows) > 1 else ())),
        instrument=_instrument_of(result, control_run),
        warnings=(*evidence.warnings, *validity.notes),
        checks=(*evidence.checks, check, *_damage_checks(result, control_run, evidence.role)),
    )


def _damage_checks(result: TrafficResult, control_run: ControlRun | None, role: Role) -> Iterator[Check]:
    """Each answer is as the reflector sent it; only its log shows that."""
    if result.instrument.log_lines is None:
        return
    name, expected, observed = "answers-undamaged", "each answer as the reflector sent it", f"{result.damaged} damaged"
    if not result.damaged:
        yield Check(name, Outcome.PASS, expected, observed)
    elif (control_run is not None and control_run.damaged) or role in (Role.CONTROL_RUN, Role.NEGATIVE_CONTROL):
        yield Check(name, Outcome.INCONCLUSIVE, expected, observed)
    else:
        yield Check(name, Outcome.FAIL, expected, observed, f"{counted(result.damaged, 'answer')} damaged on the way")


def guest_stops(updates: Sequence[UpdateResult]) -> tuple[GuestStop, ...]:
    """When the guest stood still in each update; numbered from 1 where there is more than one."""
    several = len(updates) > 1
    return tuple(
        GuestStop(times.get(Step.STOP), times.get(Step.RESUME), number if several else None)
        for number, times in enumerate((update.times_ns for update in updates), 1)
    )


def with_ledger(evidence: CaseEvidence, ledger: Ledger, absent: tuple[str, ...], drops_available: bool) -> CaseEvidence:
    """The evidence with its ledger.

    :param absent: names of counters that could not be read.
    :param drops_available: whether the kernel's drop events could be read.
    """
    unread = (*absent, *(() if drops_available else ("skb:kfree_skb",)))
    return replace(
        evidence,
        ledger=ledger.hops,
        missing=ledger.rows,
        unexplained=ledger.unexplained,
        instrument=replace(evidence.instrument, missing_counters=unread),
        warnings=(*evidence.warnings, *ledger.notes),
    )


def packets_of(result: TrafficResult) -> Packets:
    """The packets of all flows, in the order of sending."""
    rows = sorted(
        row for flow in result.flows for row in zip(flow.sent_ns, flow.reflected_ns, flow.returned_ns, strict=True)
    )
    sent_ns, reflected_ns, returned_ns = zip(*rows, strict=True) if rows else ((), (), ())
    return Packets.from_ns(sent_ns, reflected_ns, returned_ns)


def after_update_check(result: TrafficResult, control_run: ControlRun | None, queue_length: int) -> Check:
    """A further control run, with the guest after its updates, is as good as one before them.

    Inconclusive are duplicates and reordering that the machine caused before the updates too, and what a pause explains
    in the measured run as well: a full tap queue, and flows that tun forgot.

    :param control_run: before the updates.
    :param queue_length: packets that a tap queue holds.
    """
    name, expected = "traffic-intact-afterwards", f"each of {result.sent} packets answered once, in order"
    seen = _disturbances(result)
    if not seen:
        return Check(name, Outcome.PASS, expected, "no packet lost, damaged, duplicated or reordered")
    observed = _shown(seen)
    validity = check_instrument(result)
    if not validity.conclusive:
        return Check(name, Outcome.INCONCLUSIVE, expected, "; ".join(validity.problems))
    before = _disturbances(*(control_run.results if control_run else ()))
    excused = {"duplicated", "reordered"} & before.keys()
    room_ms = Budget(queue_length, result.settings.rate / len(result.flows)).longest_pause_ms or 0.0
    pause_ms, gap_ms = result.interruption.forward.high_ms or 0.0, (control_run and control_run.floor_ms) or 0.0
    if result.lost == result.lost_forward and room_ms < pause_ms:
        excused.add("lost")
    silent_ms = max(pause_ms, result.interruption.return_.high_ms or 0.0)  # the tap remembers the answers' queue
    if len(result.flows) > 1 and not result.reordered.return_ and silent_ms > TUN_FLOW_EXPIRE_MS:
        excused.add("reordered")
    if seen.keys() <= excused:
        reason = f"{observed} in a pause of {pause_ms:,.0f} ms, the tap's queue lasts {room_ms:,.0f} ms"
        was = f"before the update {gap_ms:,.0f} ms" + (f", {_shown(before)}" if before else "")
        return Check(name, Outcome.INCONCLUSIVE, expected, f"{reason}; {was}")
    meaning = f"{observed} of {counted(result.sent)} after the update, while nothing was updated"
    return Check(name, Outcome.FAIL, expected, observed, meaning)


def _disturbances(*results: TrafficResult) -> Counter[str]:
    """Packets that did not arrive once, unchanged and in order, by what happened to them; empty when all did."""
    counts = Counter(
        lost=sum(result.lost for result in results),
        damaged=sum(result.damaged for result in results),
        duplicated=sum(result.duplicates.total or 0 for result in results),
        reordered=sum(result.reordered.total or 0 for result in results),
    )
    return +counts  # without zeros


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())
