"""Compute the figures of a stream from the records of sender, capture and reflector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cprlib.traffic import metrics
from cprlib.traffic.clock import ClockModel, estimate_clock
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.instrument import Recording
from cprlib.traffic.packet_records import (
    Arrival,
    Matched,
    Reflection,
    match_arrivals,
    sort_log,
)
from cprlib.traffic.result import DirectionResult, FlowResult, InstrumentReport, TrafficResult


def make_result(
    flows: Sequence[Flow],
    settings: StreamSettings,
    recording: Recording,
    *,
    log: Iterable[Reflection] | None,
    reflector_drops: int | None,
    still_arriving: bool = False,
) -> TrafficResult:
    """The figures of a stream.

    :param log: the reflector's log; None when it is not available: its sequence numbers then separate the directions.
    :param reflector_drops: packets that the reflector's socket dropped; None when unknown.
    :param still_arriving: answers still arrived when the capture ended.
    """
    lines = None if log is None else sort_log(flows, [len(sent_ns) for sent_ns in recording.sent], log)
    logs = [None] * len(flows) if lines is None else lines.by_flow
    answers = [
        match_arrivals(sent_ns, received, entries)
        for sent_ns, received, entries in zip(recording.sent, recording.arrivals, logs, strict=True)
    ]
    clock = estimate_clock(arrival for entry in answers for arrival in entry.arrivals)
    results = [
        _flow_result(flow, sent_ns, entry, entries, clock)
        for flow, sent_ns, entry, entries in zip(flows, recording.sent, answers, logs, strict=True)
    ]
    report = InstrumentReport(
        sender=recording.sender,
        capture=recording.capture,
        clock=clock,
        reflector_drops=reflector_drops,
        reflector_lag_ns=_lag_ns(lines.by_flow) if lines else None,
        log_lines=None if lines is None else sum(map(len, lines.by_flow)) + lines.foreign + lines.invalid,
        log_foreign=lines.foreign if lines else 0,
        log_invalid=lines.invalid if lines else 0,
        still_arriving=still_arriving,
    )
    return TrafficResult(settings, tuple(results), report)


def _lag_ns(logs: Iterable[Sequence[Reflection]]) -> int | None:
    """How long the reflector had a packet at most; None when it waited for the NIC, or had no packet."""
    lines = [line for log in logs for line in log]
    if any(line.retried for line in lines):
        return None
    return max((line.sent_ns - line.received_ns for line in lines), default=None)


def _flow_result(
    flow: Flow,
    sent_ns: Sequence[int],
    answers: Matched,
    log: Sequence[Reflection] | None,
    clock: ClockModel | None,
) -> FlowResult:
    arrivals = answers.arrivals
    returned: list[int | None] = [None] * len(sent_ns)
    for arrival in reversed(arrivals):  # so that the first answer remains
        returned[arrival.sender_sequence] = arrival.t4
    reflected = _reflected(len(sent_ns), arrivals, log, clock)
    by_sequence = metrics.loss_by_sequence(
        len(sent_ns), [(arrival.sender_sequence, arrival.reflector_sequence) for arrival in arrivals]
    )
    return FlowResult(
        flow=flow,
        sent_ns=sent_ns,
        reflected_ns=reflected,
        returned_ns=returned,
        forward=_forward(sent_ns, reflected, log, by_sequence),
        returning=_returning(sent_ns, arrivals, log, by_sequence, clock),
        undetermined=by_sequence.undetermined if log is None else 0,
        missing=metrics.missing_sequences(len(sent_ns), (arrival.sender_sequence for arrival in arrivals)),
        answers=len(arrivals),
        invalid=answers.invalid,
        not_in_log=answers.not_in_log,
    )


def _reflected(
    sent: int, arrivals: Sequence[Arrival], log: Sequence[Reflection] | None, clock: ClockModel | None
) -> list[int | None]:
    """T2 of the first copy of each packet, on the host's clock."""
    reflected: list[int | None] = [None] * sent
    if clock is None:
        return reflected
    if log is None:
        pairs = [(arrival.sender_sequence, arrival.t2) for arrival in arrivals]
    else:
        pairs = [(line.sender_sequence, line.received_ns) for line in log]
    for sequence, guest_ns in reversed(pairs):
        reflected[sequence] = clock.to_host(guest_ns)
    return reflected


def _forward(
    sent_ns: Sequence[int],
    reflected: Sequence[int | None],
    log: Sequence[Reflection] | None,
    by_sequence: metrics.LossBySequence,
) -> DirectionResult:
    arrived = [(sequence, time_ns) for sequence, time_ns in enumerate(reflected) if time_ns is not None]
    interruption = metrics.interruption_by_timestamps(sent_ns, arrived)
    if log is None:
        return DirectionResult(len(sent_ns), by_sequence.forward, interruption)
    order = [line.sender_sequence for line in log]
    missing = metrics.missing_sequences(len(sent_ns), order)
    return DirectionResult(
        sent=len(sent_ns),
        lost=len(missing),
        interruption=interruption,
        copies=metrics.duplicated_sequences(order),
        late=metrics.reordered_sequences(order),
        missing=missing,
        missing_ns=tuple(sent_ns[sequence] for sequence in missing),
    )


def _returning(
    sent_ns: Sequence[int],
    arrivals: Sequence[Arrival],
    log: Sequence[Reflection] | None,
    by_sequence: metrics.LossBySequence,
    clock: ClockModel | None,
) -> DirectionResult:
    sender_sequence = {arrival.reflector_sequence: arrival.sender_sequence for arrival in arrivals}
    order = [arrival.reflector_sequence for arrival in arrivals]
    copies = tuple(sender_sequence[number] for number in metrics.duplicated_sequences(order))
    late = tuple(sender_sequence[number] for number in metrics.reordered_sequences(order))
    interruption = metrics.interruption_by_timestamps(
        sent_ns, [(arrival.sender_sequence, arrival.t4) for arrival in arrivals]
    )
    if log is None:
        reflected = len(sent_ns) - by_sequence.forward - by_sequence.undetermined
        return DirectionResult(reflected, by_sequence.returning, interruption, copies, late)
    lost = [line for line in log if line.reflector_sequence not in sender_sequence]
    return DirectionResult(
        sent=len(log),
        lost=len(lost),
        interruption=interruption,
        copies=copies,
        late=late,
        missing=tuple(line.sender_sequence for line in lost),
        missing_ns=tuple(clock.to_host(line.sent_ns) if clock else sent_ns[line.sender_sequence] for line in lost),
    )
