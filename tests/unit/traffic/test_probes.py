"""Warm-up and probes: packets are counted as answered or missing, a silent flow is named, and no figure has them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, EnvironmentFailure
from cprlib.linux.namespace import NetworkNamespace
from cprlib.traffic.flow import Flow, flows_between
from cprlib.traffic.probes import ROUND_TRIPS, Listener, Probes, warm_up
from cprlib.traffic.stamp import SENDER, ntp_to_ns, reflector_packet
from cprlib.traffic.station_endpoints import StampReflector

from .veth import veth_pair_or_skip

MAC = "52:54:00:00:00:01"


class Here:
    """Instead of the station's namespace: the one of the test."""

    def entered(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


HERE = cast(NetworkNamespace, Here())


@contextlib.contextmanager
def reflector(answers: Callable[[int], bool], copies: int = 1) -> Iterator[tuple[Flow, ...]]:
    """A reflector on the loopback interface that answers the numbers selected by ``answers``; yields flows to it.

    :param copies: of each answer.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened, contextlib.ExitStack() as stack:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(0.05)
        end = threading.Event()

        def reflect() -> None:
            while not end.is_set():
                with contextlib.suppress(TimeoutError):
                    payload, peer = opened.recvfrom(2048)
                    number, sent, _, _ = SENDER.unpack_from(payload)
                    if answers(number):
                        now = time.time_ns()
                        for _ in range(copies):
                            opened.sendto(reflector_packet(0, now, now, number, ntp_to_ns(sent)), peer)

        thread = threading.Thread(target=reflect)
        thread.start()
        stack.callback(thread.join)
        stack.callback(end.set)
        yield tuple(
            Flow(MAC, MAC, "127.0.0.1", "127.0.0.1", free_port(), target_port=opened.getsockname()[1]) for _ in range(2)
        )


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def test_all_are_answered() -> None:
    with reflector(lambda _number: True) as flows, Probes(HERE, flows) as probes:
        before = time.time_ns()
        assert probes.send(3) == 6
        assert probes.count_missing(Deadline(10, "answers")) == 0
        assert probes.first_answer_ns is not None
        assert before <= probes.first_answer_ns <= time.time_ns()
        probes.wait_answers(Deadline(10, "answers"))


def test_missing_answers_are_counted_once() -> None:
    with reflector(lambda number: number != 1) as flows, Probes(HERE, flows) as probes:
        probes.send(3)
        assert probes.count_missing(Deadline(0.3, "answers")) == 2
        probes.send()
        assert probes.count_missing(Deadline(10, "answers")) == 0


def test_an_answer_to_an_earlier_packet_is_not_the_first() -> None:
    with reflector(lambda number: number == 0, copies=9) as flows, Probes(HERE, flows) as probes:
        probes.wait_answers(Deadline(10, "answers"), count=1)
        probes.send()
        assert probes.count_missing(Deadline(0.3, "answers")) == 2
        assert probes.first_answer_ns is None


def test_a_late_answer_does_not_shorten_the_quiet_time() -> None:
    with reflector(lambda _number: True, copies=2) as flows, Probes(HERE, flows) as probes:
        probes.wait_answers(Deadline(10, "answers"), count=1)  # the copies remain
        begun = time.monotonic()
        assert probes.round_trip(0, Deadline(10, "an answer"), quiet_s=0.3)
        assert time.monotonic() - begun >= 0.3


def test_a_silent_flow_is_named() -> None:
    with reflector(lambda _number: False) as flows, Probes(HERE, flows) as probes:
        with pytest.raises(DeadlineExceeded, match="no answer on"):
            probes.wait_answers(Deadline(0.2, "the guest to answer"))
        assert probes.first_answer_ns is None


def test_a_packet_that_was_given_up_is_not_taken_for_the_next() -> None:
    with Listener(HERE, "127.0.0.1") as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        assert listener.wait(Deadline(0.01, "a packet"), 44) is None
        opened.sendto(bytes(44), ("127.0.0.1", listener.port))
        assert listener.wait(Deadline(0.2, "another one"), 45) is None
        opened.sendto(bytes(46), ("127.0.0.1", listener.port))
        assert listener.wait(Deadline(10, "the next one"), 46) is not None


def test_a_late_start_is_waited_for() -> None:
    begun = time.monotonic()
    with reflector(lambda _number: time.monotonic() - begun > 0.6) as flows, Probes(HERE, flows) as probes:
        probes.wait_answers(Deadline(10, "the guest to answer"), count=1)
    assert time.monotonic() - begun > 0.6


def test_a_taken_port_is_reported() -> None:
    with (
        reflector(lambda _number: True) as flows,
        Probes(HERE, flows),
        pytest.raises(EnvironmentFailure, match="probe"),
    ):
        Probes(HERE, flows).__enter__()


@pytest.mark.parametrize("version", [4, 6])
def test_a_warm_up_ends_when_each_flow_has_been_answered(version: int) -> None:
    flows = flows_between(versions=(version,), count=2)
    with veth_pair_or_skip() as pair:
        with pair.guest.entered():
            reflector = StampReflector()
        with reflector:
            warm_up(pair.station, flows, Deadline(10, "answers"))
        ports = [line.peer_port for line in reflector.log()]
    assert {port: ports.count(port) for port in set(ports)} == {flow.source_port: ROUND_TRIPS for flow in flows}


def test_a_warm_up_without_an_answer_is_an_error() -> None:
    with veth_pair_or_skip() as pair, pytest.raises(DeadlineExceeded, match="no answer on"):
        warm_up(pair.station, flows_between(), Deadline(0.5, "answers"))
