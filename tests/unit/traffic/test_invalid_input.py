"""Invalid input at either end of a running stream is counted and ignored: no exception, and all figures correct."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from cprlib.deadline import Deadline
from cprlib.traffic.control_run import ControlRun, check_instrument, check_measurement
from cprlib.traffic.flow import Flow, StreamSettings, flows_between
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession
from cprlib.traffic.sockets import open_sending
from cprlib.traffic.stamp import ns_to_ntp
from malformed_frames import EACH, MalformedFrames

from .reflector_process import reflector_process
from .test_result import World, fates, result_of, simulate
from .veth import INTERFACE, Pair, silence, veth_pair_or_skip

PACKETS = 400
(FLOW,) = flows_between(count=1, first_port=20000)


@contextlib.contextmanager
def sending_from(pair: Pair, *, station: bool) -> Iterator[socket.socket]:
    with (pair.station if station else pair.guest).entered():
        opened = open_sending(INTERFACE)
    with opened:
        yield opened


def stream_beside(pair: Pair, to_station: list[bytes], to_guest: list[bytes]) -> tuple[TrafficResult, dict[str, int]]:
    """Send a stream, and other frames at both ends; returns figures, and counts of what the reflector ignored."""
    with reflector_process(pair.guest) as reflector:
        with TrafficSession(pair.station, [FLOW], StreamSettings(2000, count=PACKETS)) as session:
            session.wait_for_answers(20, Deadline(20, "answers"))
            for frames, station in ((to_station, False), (to_guest, True)):
                with sending_from(pair, station=station) as opened:
                    for frame in frames:
                        opened.send(frame)
            session.wait_sent(Deadline(20, "the stream to be sent"))
            session.finish(linger_s=0.3)
        log = reflector.finish()
    return session.result(log, reflector_drops=reflector.dropped), reflector.counts


def test_malformed_frames_are_counted_by_kind_and_change_nothing() -> None:
    frames = MalformedFrames(FLOW.source_port)
    with veth_pair_or_skip() as pair:
        silence(pair.station)
        silence(pair.guest)
        to_station, to_guest = frames.data
        result, ignored = stream_beside(pair, to_station * EACH, to_guest * EACH)
    assert list(frames.at_capture(result)) == []
    assert (result.sent, result.lost, result.duplicates.forward, result.duplicates.return_) == (PACKETS, 0, 0, 0)
    assert (result.reordered.forward, result.reordered.return_) == (0, 0)
    assert ignored == {"too short": 2 * EACH, "corrupt": EACH}
    assert result.damaged == frames.invalid_answers
    assert check_instrument(result).problems == ()  # they hide no loss
    assert any("damaged" in problem for problem in ControlRun((result,)).problems)


@given(fates, st.lists(st.tuples(st.integers(0, 8), st.integers(0, 40), st.booleans()), max_size=8))
def test_answers_that_the_reflector_never_sent_hide_no_loss(
    network: list[tuple[list[int], list[int], list[int]]], forged: list[tuple[int, int, bool]]
) -> None:
    """Sequence number and time stamp of the sender are correct, the reflector's number is not, as after damage."""
    world = simulate(network)
    clean = result_of(world, world.log)
    given_by = {line.reflector_sequence: line.sender_sequence for line in world.log}
    added = 0
    for sequence, own, early in forged:
        if sequence >= world.sent or given_by.get(own) == sequence:
            continue
        add_answer(world, sequence, own, early=early)
        added += 1
    with_forged = result_of(world, world.log)
    assert with_forged.flows[0].not_in_log == with_forged.damaged == added
    for name in ("sent", "lost_forward", "lost_return", "duplicates"):
        assert getattr(with_forged, name) == getattr(clean, name)
    assert with_forged.reordered.return_ == clean.reordered.return_
    assert with_forged.flows[0].missing == clean.flows[0].missing
    assert check_instrument(with_forged).problems == check_instrument(clean).problems


def add_answer(world: World, sequence: int, own: int, *, early: bool) -> None:
    """Insert an answer before or after all others."""
    columns, sent_ns = world.columns, world.sent_ns[sequence]
    values = (sequence, own, sent_ns + 500, ns_to_ntp(sent_ns), ns_to_ntp(sent_ns + 100), ns_to_ntp(sent_ns + 200))
    names = ("sender_sequence", "reflector_sequence", "received_ns", "t1", "t2", "t3")
    for name, value in zip(names, values, strict=True):
        column = getattr(columns, name)
        column.insert(0 if early else len(column), value)


def test_a_run_faster_than_its_control_run_is_inconclusive() -> None:
    with veth_pair_or_skip() as pair:
        slow, _ = stream_at(pair, 1000, FLOW)
        fast, _ = stream_at(pair, 2000, flows_between(count=1, first_port=20100)[0])
    assert (
        check_measurement(slow, ControlRun((fast,)), 5000).problems
        == check_measurement(slow, ControlRun((slow,)), 5000).problems
        == ()
    )
    problems = check_measurement(fast, ControlRun((slow,)), 5000).problems
    assert problems == ("the control run had 1000 packets/s, the measured run 2000 packets/s",)


def stream_at(pair: Pair, rate: float, flow: Flow) -> tuple[TrafficResult, list[Reflection]]:
    with reflector_process(pair.guest) as reflector:
        with TrafficSession(pair.station, [flow], StreamSettings(rate, count=PACKETS)) as session:
            session.wait_sent(Deadline(20, "the stream to be sent"))
            session.finish(linger_s=0.3)
        log = reflector.finish()
    return session.result(log, reflector_drops=reflector.dropped), log


def test_no_thread_of_the_instrument_remains() -> None:
    before = threading.active_count()
    with veth_pair_or_skip() as pair:
        silence(pair.station)
        silence(pair.guest)
        frames = MalformedFrames(FLOW.source_port)
        stream_beside(pair, *frames.data)
    assert threading.active_count() == before
