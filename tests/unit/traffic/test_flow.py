"""Streams and flows that cannot be sent are refused before anything is sent."""

from __future__ import annotations

import pytest

from cprlib.errors import UsageError
from cprlib.traffic.flow import StreamSettings, flows_between

pytestmark = pytest.mark.fast


def test_a_stream_longer_than_the_sequence_numbers_is_refused() -> None:
    with pytest.raises(UsageError, match="32 bits"):
        StreamSettings(1000, count=1 << 32)


def test_a_duration_is_counted_in_packets() -> None:
    assert StreamSettings(1000, duration_s=2.5).packets == 2500
    assert StreamSettings(0.1, duration_s=1.0).packets == 1


def test_flows_take_turns_between_ip_versions_and_have_ports_of_their_own() -> None:
    flows = flows_between(versions=(4, 6), count=4)
    assert [flow.version for flow in flows] == [4, 6, 4, 6]
    assert len({flow.source_port for flow in flows}) == 4


@pytest.mark.parametrize(("versions", "count"), [((4,), 0), ((), 1), ((5,), 1)])
def test_no_flow_at_all_is_refused(versions: tuple[int, ...], count: int) -> None:
    with pytest.raises(UsageError):
        flows_between(versions=versions, count=count)
