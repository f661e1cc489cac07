"""The result agrees with a simulated network that loses, copies and reorders packets at random."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from cprlib.traffic.capture import CaptureReport
from cprlib.traffic.evaluation import make_result
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.instrument import Recording
from cprlib.traffic.kernel_drops import DropReport
from cprlib.traffic.ledger import make_ledger, missing_packets
from cprlib.traffic.metrics import TimestampInterruption
from cprlib.traffic.packet_records import ArrivalColumns, Reflection
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.sender import SenderReport
from cprlib.traffic.stamp import ns_to_ntp

START = 1_760_000_000_000_000_000
PERIOD = 1_000_000
OFFSET = 7_000_000_000  # guest's clock minus host's
FLOW = flows_between()[0]
SENDER = SenderReport(0, {}, 0, None, None)
CAPTURE = CaptureReport(0, {}, 0, 0, 0, 0)

delays = st.integers(10_000, 5 * PERIOD)
copies = st.lists(delays, max_size=2)  # none is a loss, two is a copy
fates = st.lists(st.tuples(copies, copies, copies), min_size=1, max_size=25)


@dataclass(frozen=True, slots=True)
class World:
    """What truly happened."""

    sent: int
    reached: list[int]  # the sender's numbers in the order of reaching the reflector
    answers: list[tuple[int, int]]  # reflector's and sender's number in the order of coming back
    log: list[Reflection]
    columns: ArrivalColumns
    sent_ns: array[int]


def simulate(network: list[tuple[list[int], list[int], list[int]]]) -> World:
    """Each packet has delays of its copies forward, and of the copies of the answers to the first and second."""
    sent_ns, columns = array("q"), ArrivalColumns()
    at_reflector = []
    for sequence, (forward, *back) in enumerate(network):
        sent_ns.append(START + sequence * PERIOD)
        for number, delay in enumerate(forward):
            at_reflector.append((START + sequence * PERIOD + delay, sequence, back[number]))
    log, at_station = [], []
    for own, (moment, sequence, returning) in enumerate(sorted(at_reflector)):
        guest_ns = moment + OFFSET
        log.append(Reflection(sequence, own, guest_ns, guest_ns + 1000, FLOW.source, FLOW.source_port))
        at_station += [(moment + 1000 + delay, own, sequence, guest_ns) for delay in returning]
    for moment, own, sequence, guest_ns in sorted(at_station):
        columns.sender_sequence.append(sequence)
        columns.reflector_sequence.append(own)
        columns.received_ns.append(moment)
        columns.t1.append(ns_to_ntp(START + sequence * PERIOD))
        columns.t2.append(ns_to_ntp(guest_ns))
        columns.t3.append(ns_to_ntp(guest_ns + 1000))
    answers = [(own, sequence) for _, own, sequence, _ in sorted(at_station)]
    return World(len(network), [line.sender_sequence for line in log], answers, log, columns, sent_ns)


def result_of(world: World, log: list[Reflection] | None) -> TrafficResult:
    return make_result(
        [FLOW],
        StreamSettings(1000, count=world.sent),
        Recording((world.sent_ns,), (world.columns,), deque(), SENDER, CAPTURE),
        log=log,
        reflector_drops=0,
    )


@settings(deadline=None)
@given(fates)
def test_the_result_is_what_happened(network: list[tuple[list[int], list[int], list[int]]]) -> None:
    world = simulate(network)
    result = result_of(world, world.log)
    came_back = [own for own, _ in world.answers]
    assert result.sent == world.sent
    assert result.lost_forward == world.sent - len(set(world.reached))
    assert result.lost_return == len(world.log) - len(set(came_back))
    assert result.undetermined == 0
    assert result.duplicates.forward == len(world.reached) - len(set(world.reached))
    assert result.duplicates.return_ == len(came_back) - len(set(came_back))
    assert result.answered == len({sequence for _, sequence in world.answers})
    flow = result.flows[0]
    assert flow.invalid == flow.not_in_log == 0
    assert flow.forward.missing == tuple(s for s in range(world.sent) if s not in world.reached)
    assert len(flow.returning.missing or ()) == result.lost_return
    for direction in (flow.forward, flow.returning):
        assert direction.copies is not None
        assert direction.late is not None
        assert all(0 <= sequence < world.sent for sequence in (*direction.copies, *direction.late))
    assert len(missing_packets(result)) == result.lost_forward + result.lost_return
    assert make_ledger(result, (), DropReport("not used")).missing == result.lost
    if world.answers:
        assert result.instrument.clock is not None
        error = result.instrument.clock.error_ns + 10
        for line in world.log:
            assert abs(result.instrument.clock.to_host(line.received_ns) - (line.received_ns - OFFSET)) <= error


def test_the_longest_interruption_of_several_flows_has_both_largest_limits() -> None:
    world = simulate([([5], [5], [])] * 3)
    measured = [TimestampInterruption(100 * PERIOD, 101 * PERIOD), TimestampInterruption(99 * PERIOD, 140 * PERIOD)]
    longest = result_of(world, world.log).longest_interruption(measured, 0)
    assert (longest.low_ms, longest.high_ms) == (100, 140)
    assert result_of(world, world.log).longest_interruption([*measured, None], 0).low_ms is None


def test_lag_of_the_reflector_is_unknown_when_the_nic_had_no_room() -> None:
    world = simulate([([5], [5], [])] * 3)
    world.log[1] = world.log[1]._replace(sent_ns=world.log[1].received_ns + 7_000_000)
    assert result_of(world, world.log).instrument.reflector_lag_ns == 7_000_000
    world.log[2] = world.log[2]._replace(retried=True)
    assert result_of(world, world.log).instrument.reflector_lag_ns is None
    assert result_of(world, None).instrument.reflector_lag_ns is None


@settings(deadline=None)
@given(fates)
def test_without_a_log_nothing_is_lost_twice_or_forgotten(
    network: list[tuple[list[int], list[int], list[int]]],
) -> None:
    world = simulate([(forward[:1], back[:1], []) for forward, back, _ in network])
    result = result_of(world, None)
    assert result.answered + result.lost >= world.sent
    assert result.duplicates.forward is None
    assert make_ledger(result, (), DropReport("not used")).missing == result.lost


@settings(deadline=None)
@given(fates, st.integers(0, 5), st.integers(0, 5))
def test_lines_of_others_in_the_log_change_nothing(
    network: list[tuple[list[int], list[int], list[int]]], foreign: int, invalid: int
) -> None:
    world = simulate(network)
    log = [
        *(Reflection(0, number, 0, 0, "10.9.9.9", 5) for number in range(foreign)),
        *world.log,
        *(Reflection(world.sent + number, 999, 0, 0, FLOW.source, FLOW.source_port) for number in range(invalid)),
    ]
    clean, forged = result_of(world, world.log), result_of(world, log)
    assert forged.flows == clean.flows
    assert (forged.instrument.log_foreign, forged.instrument.log_invalid) == (foreign, invalid)
