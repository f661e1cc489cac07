"""Invalid flows and settings are refused before anything is sent."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cprlib.errors import UsageError
from cprlib.traffic.flow import Flow, StreamSettings, flows_between

pytestmark = pytest.mark.fast

GOOD: dict[str, Any] = {
    "source_mac": "52:54:00:75:00:01",
    "target_mac": "52:54:00:75:00:02",
    "source": "10.75.0.1",
    "target": "10.75.0.2",
    "source_port": 20000,
}


@pytest.mark.parametrize("rate", [0, -1, -0.5, math.nan, math.inf, 2_000_000])
def test_rates_that_cannot_be_sent_are_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="rate"):
        StreamSettings(rate, count=1)


@pytest.mark.parametrize(
    "length",
    [
        {},
        {"count": 1, "duration_s": 1.0},
        {"count": 0},
        {"count": -5},
        {"duration_s": 0.0},
        {"duration_s": math.nan},
        {"count": 1 << 32},
        {"count": 1, "burst": 0},
    ],
)
def test_lengths_that_make_no_sense_are_refused(length: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        StreamSettings(1000, **length)


def test_a_duration_is_counted_in_packets() -> None:
    assert StreamSettings(1000, duration_s=2.5).packets == 2500
    assert StreamSettings(0.1, duration_s=1.0).packets == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 43},
        {"size": 0},
        {"size": 8973},
        {"dscp": 64},
        {"dscp": -1},
        {"ssid": 65536},
        {"source_port": 0},
        {"source_port": 65536},
        {"source_port": 862},
        {"source": "fd75::1"},
        {"source": "nowhere"},
        {"source_mac": "52:54:00"},
    ],
)
def test_flows_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Flow(**{**GOOD, **wrong})


def test_flows_take_turns_between_ip_versions_and_have_ports_of_their_own() -> None:
    flows = flows_between(versions=(4, 6), count=4)
    assert [flow.version for flow in flows] == [4, 6, 4, 6]
    assert len({flow.source_port for flow in flows}) == 4


@pytest.mark.parametrize(("versions", "count"), [((4,), 0), ((), 1), ((5,), 1)])
def test_no_flow_at_all_is_refused(versions: tuple[int, ...], count: int) -> None:
    with pytest.raises(UsageError):
        flows_between(versions=versions, count=count)
