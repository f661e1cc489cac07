"""From the records of sender, capture and reflector to the figures of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cprlib.traffic import metrics
from cprlib.traffic.capture import CaptureReport
from cprlib.traffic.clock import ClockModel, ClockSample, estimate_clock
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.packet_records import (
    Arrival,
    ArrivalColumns,
    Matched,
    Reflection,
    SentColumns,
    SortedLog,
    match_arrivals,
    sort_log,
)
from cprlib.traffic.result import DirectionResult, FlowResult, InstrumentReport, TrafficResult
from cprlib.traffic.sender import SenderReport


def make_result(
    flows: Sequence[Flow],
    settings: StreamSettings,
    sent: Sequence[SentColumns],
    arrivals: Sequence[ArrivalColumns],
    reports: tuple[SenderReport, CaptureReport],
    *,
    log: Iterable[Reflection] | None,
    reflector_drops: int | None,
) -> TrafficResult:
    """Put the records of sender, capture and reflector together.

    :param log: the reflector's log, None when it could not be had: then only its sequence numbers separate directions.
    """
    matched = [match_arrivals(columns.sent_ns, answers) for columns, answers in zip(sent, arrivals, strict=True)]
    lines = None if log is None else sort_log(flows, [len(columns) for columns in sent], log)
    logs = [None] * len(flows) if lines is None else lines.by_flow
    known = [_known_to(entries, entry) for entries, entry in zip(logs, matched, strict=True)]
    clock = estimate_clock(
        ClockSample(a.sent_ns, a.reflector_received_ns, a.reflector_sent_ns, a.arrived_ns)
        for entry in known
        for a in entry.arrivals
    )
    results = [
        _flow_result(flow, columns.sent_ns, entry, entries, clock)
        for flow, columns, entry, entries in zip(flows, sent, known, logs, strict=True)
    ]
    return TrafficResult(settings, tuple(results), _instrument(reports, clock, reflector_drops, lines))


def _instrument(
    reports: tuple[SenderReport, CaptureReport],
    clock: ClockModel | None,
    reflector_drops: int | None,
    lines: SortedLog | None,
) -> InstrumentReport:
    return InstrumentReport(
        sender=reports[0],
        capture=reports[1],
        clock=clock,
        reflector_drops=reflector_drops,
        log_lines=None if lines is None else sum(map(len, lines.by_flow)) + lines.foreign + lines.invalid,
        log_foreign=lines.foreign if lines else 0,
        log_invalid=lines.invalid if lines else 0,
    )


def _flow_result(
    flow: Flow,
    sent_ns: Sequence[int],
    known: _Known,
    log: Sequence[Reflection] | None,
    clock: ClockModel | None,
) -> FlowResult:
    arrivals = known.arrivals
    returned: list[int | None] = [None] * len(sent_ns)
    for arrival in reversed(arrivals):  # so that the first answer stays
        returned[arrival.sender_sequence] = arrival.arrived_ns
    reflected = _reflected(len(sent_ns), arrivals, log, clock)
    by_sequence = metrics.loss_by_sequence(
        len(sent_ns), [(arrival.sender_sequence, arrival.reflector_sequence) for arrival in arrivals]
    )
    forward, returning = _directions(sent_ns, reflected, arrivals, log, by_sequence, clock)
    return FlowResult(
        flow=flow,
        sent_ns=sent_ns,
        reflected_ns=reflected,
        returned_ns=returned,
        forward=forward,
        returning=returning,
        undetermined=by_sequence.undetermined if log is None else 0,
        missing=metrics.missing_sequences(len(sent_ns), (arrival.sender_sequence for arrival in arrivals)),
        answers=len(arrivals),
        invalid=known.invalid,
        not_in_log=known.not_in_log,
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """The answers that the reflector says it gave, and how many others came."""

    arrivals: Sequence[Arrival]
    invalid: int
    not_in_log: int


def _known_to(log: Sequence[Reflection] | None, matched: Matched) -> _Known:
    """Take the answers that the log knows. Others were damaged on the way, or the log has holes.

    An answer that is not the reflector's own stands for none of those that are missing.
    """
    if log is None:
        return _Known(matched.arrivals, matched.invalid, 0)
    given = {line.reflector_sequence: line.sender_sequence for line in log}
    known = [answer for answer in matched.arrivals if given.get(answer.reflector_sequence) == answer.sender_sequence]
    return _Known(known, matched.invalid, len(matched.arrivals) - len(known))


def _reflected(
    sent: int, arrivals: Sequence[Arrival], log: Sequence[Reflection] | None, clock: ClockModel | None
) -> list[int | None]:
    """T2 of the first copy of each packet on the host's clock."""
    reflected: list[int | None] = [None] * sent
    if clock is None:
        return reflected
    if log is None:
        pairs = [(arrival.sender_sequence, arrival.reflector_received_ns) for arrival in arrivals]
    else:
        pairs = [(line.sender_sequence, line.received_ns) for line in log]
    for sequence, moment in reversed(pairs):
        reflected[sequence] = clock.to_host(moment)
    return reflected


def _directions(
    sent_ns: Sequence[int],
    reflected: Sequence[int | None],
    arrivals: Sequence[Arrival],
    log: Sequence[Reflection] | None,
    by_sequence: metrics.LossBySequence,
    clock: ClockModel | None,
) -> tuple[DirectionResult, DirectionResult]:
    came_back = [arrival.reflector_sequence for arrival in arrivals]
    at_reflector = [(sequence, moment) for sequence, moment in enumerate(reflected) if moment is not None]
    at_station = [(arrival.sender_sequence, arrival.arrived_ns) for arrival in arrivals]
    interruption_forward = metrics.interruption_by_timestamps(sent_ns, at_reflector)
    interruption_return = metrics.interruption_by_timestamps(sent_ns, at_station)
    duplicates_return, order_return = metrics.count_duplicates(came_back), metrics.reordering(came_back)
    if log is None:
        reached = len(sent_ns) - by_sequence.forward - by_sequence.undetermined
        return (
            DirectionResult(len(sent_ns), by_sequence.forward, None, None, None, interruption_forward),
            DirectionResult(reached, by_sequence.returning, None, duplicates_return, order_return, interruption_return),
        )
    asked = {line.reflector_sequence: line.sender_sequence for line in log}
    order = [line.sender_sequence for line in log]
    missing = metrics.missing_sequences(len(sent_ns), order)
    arrived = set(came_back)
    order_forward = metrics.reordering(order)
    lost = [line for line in log if line.reflector_sequence not in arrived]
    return (
        DirectionResult(
            len(sent_ns),
            len(missing),
            missing,
            metrics.count_duplicates(order),
            order_forward,
            interruption_forward,
            tuple(sent_ns[sequence] for sequence in missing),
            metrics.duplicated_sequences(order),
            order_forward.sequences,
        ),
        DirectionResult(
            len(log),
            len(lost),
            tuple(line.sender_sequence for line in lost),
            duplicates_return,
            order_return,
            interruption_return,
            tuple(clock.to_host(line.sent_ns) if clock else sent_ns[line.sender_sequence] for line in lost),
            tuple(asked[sequence] for sequence in metrics.duplicated_sequences(came_back) if sequence in asked),
            tuple(asked[sequence] for sequence in order_return.sequences if sequence in asked),
        ),
    )
