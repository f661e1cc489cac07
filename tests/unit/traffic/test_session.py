"""Faults of the path are reported exactly, by number, direction and packet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import EnvironmentFailure, InstrumentError, UsageError
from cprlib.linux.namespace import NetworkNamespace
from cprlib.traffic.control_run import ControlRun, check_instrument, check_measurement
from cprlib.traffic.figures import Direction, HopName
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.instrument import StreamProgress
from cprlib.traffic.kernel_drops import DropReport
from cprlib.traffic.ledger import make_ledger
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession
from cprlib.traffic.worker import WorkerProcess

from .faulty_bridge import FaultyBridge, PathFault, faulty_path
from .reflector_process import reflector_process
from .veth import Pair, veth_pair_or_skip

PACKETS = 400
NO_DROPS = DropReport("not used")


def measure(pair: Pair, *, with_log: bool = True, packets: int = PACKETS, flow_count: int = 2) -> TrafficResult:
    """Run a short stream, over IPv4 and IPv6 where there are two flows."""
    flows = flows_between(versions=(4, 6), count=flow_count)
    with reflector_process(pair.guest) as reflector:
        with TrafficSession(pair.station, flows, StreamSettings(2000, count=packets)) as session:
            session.wait_sent(Deadline(30, "the stream to be sent"))
            session.finish(linger_s=0.3)
        log = reflector.finish()
    return session.result(log if with_log else None, reflector_drops=reflector.dropped)


def measure_with_faults(
    faults: Mapping[Direction, PathFault], *, with_log: bool = True, flow_count: int = 2
) -> tuple[TrafficResult, FaultyBridge]:
    with faulty_path(dict(faults)) as (pair, bridge):
        return measure(pair, with_log=with_log, flow_count=flow_count), bridge


def test_a_good_path_loses_nothing_and_the_measurement_is_valid() -> None:
    with veth_pair_or_skip() as pair:
        result = measure(pair)
    assert (result.sent, result.answered, result.lost) == (PACKETS, PACKETS, 0)
    assert (result.duplicates.forward, result.duplicates.return_) == (0, 0)
    assert (result.reordered.forward, result.reordered.return_) == (0, 0)
    assert check_instrument(result).problems == ()
    assert check_measurement(result, ControlRun((result,)), 5000).conclusive
    assert not check_measurement(result, None, 5000).conclusive
    clock = result.instrument.clock
    assert clock is not None
    assert len(clock.segments) == 1
    assert abs(clock.segments[0].offset_ns) <= clock.error_ns + 1  # both ends have one clock


@pytest.mark.parametrize("every", [2, 7, 50])
@pytest.mark.parametrize("direction", list(Direction))
def test_injected_loss_is_counted_exactly(direction: Direction, every: int) -> None:
    result, bridge = measure_with_faults({direction: PathFault(every, drop=True)})
    dropped = bridge.applied[direction].dropped
    assert dropped
    lost = {Direction.FORWARD: result.lost_forward, Direction.RETURN: result.lost_return}
    assert lost.pop(direction) == len(dropped)
    assert set(lost.values()) == {0}
    assert result.sent - result.answered == len(dropped)
    found = [s for flow in result.flows for s in (flow.forward.missing or ()) + (flow.returning.missing or ())]
    assert sorted(found) == sorted(dropped)
    assert not check_instrument(result).problems
    assert ControlRun((result,)).problems
    ledger = make_ledger(result, (), NO_DROPS)
    assert ledger.missing == ledger.unexplained == len(dropped)
    assert {row.direction for row in ledger.rows} == {direction}
    assert {row.hop for row in ledger.rows} == {HopName.UNEXPLAINED}


def test_loss_is_assigned_to_its_direction() -> None:
    result, bridge = measure_with_faults(
        {Direction.FORWARD: PathFault(9, drop=True), Direction.RETURN: PathFault(11, drop=True)}
    )
    assert result.lost_forward == len(bridge.applied[Direction.FORWARD].dropped) > 0
    assert result.lost_return == len(bridge.applied[Direction.RETURN].dropped) > 0
    assert result.sent - result.answered == result.lost


def test_without_the_log_sequence_numbers_separate_the_directions() -> None:
    faults = {Direction.FORWARD: PathFault(9, drop=True), Direction.RETURN: PathFault(11, drop=True)}
    result, bridge = measure_with_faults(faults, with_log=False)
    assert result.lost == sum(len(applied.dropped) for applied in bridge.applied.values())
    assert result.lost_forward <= len(bridge.applied[Direction.FORWARD].dropped)
    assert not check_instrument(result).conclusive
    assert make_ledger(result, (), NO_DROPS).missing == result.lost


@pytest.mark.parametrize("direction", list(Direction))
def test_copies_are_duplicates_not_loss(direction: Direction) -> None:
    result, bridge = measure_with_faults({direction: PathFault(10, copy=2)})
    copies = len(bridge.applied[direction].copied)
    assert copies > 0
    duplicates = {Direction.FORWARD: result.duplicates.forward, Direction.RETURN: result.duplicates.return_}
    assert duplicates.pop(direction) == copies
    assert set(duplicates.values()) == {0}
    assert result.lost == 0


@pytest.mark.parametrize("direction", list(Direction))
def test_held_packets_are_reordered_and_not_lost(direction: Direction) -> None:
    result, bridge = measure_with_faults({direction: PathFault(25, hold=3)}, flow_count=1)
    held = bridge.applied[direction].held
    late = [number for number in held if number < PACKETS - 3]  # the others are still held when the stream ends
    reordered = {Direction.FORWARD: result.reordered.forward, Direction.RETURN: result.reordered.return_}
    assert reordered.pop(direction) == len(late) > 0
    assert set(reordered.values()) == {0}
    assert result.lost == len(held) - len(late)
    assert result.flows[0].directions[direction].late == tuple(late)


def test_answers_that_take_longer_than_the_linger_time_are_not_lost() -> None:
    """The last one arrives about 1 s after the last packet was sent, all of them with pauses between."""
    with faulty_path({Direction.RETURN: PathFault(1, seconds=0.1)}) as (pair, _):
        result = measure(pair, packets=10, flow_count=1)
    assert (result.sent, result.answered, result.lost) == (10, 10, 0)


def test_a_path_that_forwards_nothing_is_inconclusive() -> None:
    result, _ = measure_with_faults({Direction.FORWARD: PathFault(1, drop=True)})
    assert result.lost_forward == PACKETS
    assert result.lost_return == 0
    assert any("no answer" in problem for problem in check_instrument(result).problems)
    assert result.interruption.return_.high_ms is None


def test_two_flows_on_one_port_are_refused() -> None:
    flow = flows_between()[0]
    with veth_pair_or_skip() as pair, pytest.raises(UsageError, match="port"):
        TrafficSession(pair.station, [flow, flow], StreamSettings(10, count=1)).__enter__()


def test_a_missing_interface_is_named() -> None:
    session = TrafficSession(None, flows_between(), StreamSettings(10, count=1), interface="nosuch0")
    with veth_pair_or_skip() as pair, pair.station.entered(), pytest.raises(EnvironmentFailure, match="nosuch0"):
        session.__enter__()


def test_refused_packets_of_an_interface_that_is_down_are_counted() -> None:
    with veth_pair_or_skip() as pair:
        pair.station.netlink.link("set", index=pair.station.index("eth0"), state="down")
        with TrafficSession(pair.station, flows_between(), StreamSettings(1000, count=20)) as session:
            session.wait_sent(Deadline(10, "the stream to be sent"))
            session.finish(linger_s=0)
        with pytest.raises(InstrumentError, match="ENETDOWN 20 times"):
            session.result([], reflector_drops=0)


def test_a_session_that_was_not_finished_has_no_result() -> None:
    session = TrafficSession(NetworkNamespace("none"), flows_between(), StreamSettings(10, count=1))
    with pytest.raises(InstrumentError, match="finish"):
        session.result()


def worker(**methods: Callable[[], object]) -> WorkerProcess:
    """One with these methods."""
    return cast(WorkerProcess, SimpleNamespace(request=lambda _kind, name, **_: methods[name]()))


@pytest.mark.fast
def test_answers_are_awaited_although_the_guest_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """For 3 s, when the last packet is sent; deadlines have a tenth of their length here."""
    monkeypatch.setenv("CPRLIB_TIMEOUT_SCALE", "0.1")
    again = Deadline(3, "the guest to answer again")
    session = TrafficSession(None, flows_between(), StreamSettings(10, count=9))

    def progress() -> StreamProgress:
        return StreamProgress(sent=9, answers=9 if again.expired else 5, finished=True)

    session._worker = worker(progress=progress, stop=lambda: None, finish=lambda: progress().answers)
    session.finish()
    assert cast("object", session._recording) == 9


@pytest.mark.fast
@pytest.mark.parametrize("last", [10, 10_000])
def test_answers_that_come_for_too_long_are_still_arriving(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest works off a long queue: what has not arrived at the end is not lost."""
    monkeypatch.setenv("CPRLIB_TIMEOUT_SCALE", "0.05")
    session = TrafficSession(None, flows_between(), StreamSettings(10, count=9))
    counts = itertools.chain(range(last), itertools.repeat(last))
    session._worker = worker(
        progress=lambda: StreamProgress(sent=20_000, answers=next(counts), finished=True),
        stop=lambda: None,
        finish=lambda: SimpleNamespace(sender=SimpleNamespace(sent=20_000)),
    )
    session.finish()
    seen: dict[str, bool] = {}
    monkeypatch.setattr("cprlib.traffic.session.make_result", lambda *_, **given: seen.update(given))
    session.result([])
    assert seen["still_arriving"] is (last > 10)
