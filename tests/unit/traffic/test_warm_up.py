"""A warm-up ends with answers or with an error, and its session is not the measured one's."""

from __future__ import annotations

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded
from cprlib.traffic.flow import flows_between
from cprlib.traffic.reflector import StampReflector
from cprlib.traffic.warm_up import ROUND_TRIPS, warm_up

from .veth import veth_pair_or_skip


@pytest.mark.parametrize("version", [4, 6])
def test_each_flow_has_been_answered(version: int) -> None:
    flows = flows_between(versions=(version,), count=2)
    with veth_pair_or_skip() as pair:
        with pair.guest.entered():
            reflector = StampReflector()
        with reflector:
            warm_up(pair.station, flows, Deadline(10, "answers"))
        ports = [line.peer_port for line in reflector.log()]
    assert {port: ports.count(port) for port in set(ports)} == {flow.source_port: ROUND_TRIPS for flow in flows}


def test_silence_is_an_error() -> None:
    with veth_pair_or_skip() as pair, pytest.raises(DeadlineExceeded, match="0 answers"):
        warm_up(pair.station, flows_between(), Deadline(0.5, "answers"))
