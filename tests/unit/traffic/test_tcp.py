"""TCP content is compared at both ends; loss causes retransmissions, a cut causes an error."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import EnvironmentFailure
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import GUEST
from cprlib.traffic.figures import Direction
from cprlib.traffic.tcp import TcpEndpoint, TcpEndpointReport, TcpEndpointSettings, TcpRole, content_errors

from .faulty_bridge import PathFault, faulty_path
from .veth import Pair, veth_pair_or_skip

PORT = 5001


def make(namespace: NetworkNamespace, settings: TcpEndpointSettings) -> TcpEndpoint:
    with namespace.entered():
        return TcpEndpoint(settings)


def transfer(
    pair: Pair, connecting: TcpRole, address: str, byte_count: int = 300_000
) -> tuple[TcpEndpointReport, TcpEndpointReport]:
    """The station connects to the guest; either may be the source. Returns the reports of source and sink."""
    waiting = connecting.opposite
    length = TcpEndpointSettings(TcpRole.SOURCE, PORT, rate=1_000_000, byte_count=byte_count)
    guest = make(pair.guest, replace(length, role=waiting))
    station = make(pair.station, replace(length, role=connecting, address=address))
    with guest, station:
        source, sink = (station, guest) if connecting is TcpRole.SOURCE else (guest, station)
        deadline = Deadline(60, "the content to come over")
        deadline.poll(lambda: source.byte_count >= byte_count)
        return source.finish(deadline), sink.finish(deadline)


@pytest.mark.parametrize("connecting", list(TcpRole))
@pytest.mark.parametrize("address", [GUEST.ipv4, GUEST.ipv6])
def test_content_arrives_unchanged(connecting: TcpRole, address: str) -> None:
    with veth_pair_or_skip() as pair:
        source, sink = transfer(pair, connecting, address)
    assert (source.byte_count, source.complete, sink.complete) == (300_000, True, True)
    assert content_errors(source, sink.byte_count, sink.crc32) == ()


def test_loss_causes_retransmissions_and_the_content_is_equal() -> None:
    # The bridge faults UDP only by default; here it drops every 15th TCP segment with content.
    with faulty_path({Direction.FORWARD: PathFault(15, drop=True)}, protocol=6) as (pair, bridge):
        source, sink = transfer(pair, TcpRole.SOURCE, GUEST.ipv4)
    assert bridge.applied[Direction.FORWARD].dropped
    assert source.retransmissions >= len(bridge.applied[Direction.FORWARD].dropped) > 0
    assert content_errors(source, sink.byte_count, sink.crc32) == ()
    assert sink.longest_stall_ns > 0


def test_a_connection_that_is_cut_is_no_success() -> None:
    with veth_pair_or_skip() as pair:
        settings = TcpEndpointSettings(TcpRole.SOURCE, PORT, rate=100_000)
        guest = make(pair.guest, replace(settings, role=TcpRole.SINK))
        station = make(pair.station, replace(settings, address=GUEST.ipv4))
        with station:
            with guest:
                Deadline(20, "bytes to come").poll(lambda: guest.byte_count > 10_000)
            # The source continues to send: only a segment after the cut is answered with a reset.
            Deadline(20, "the reset").poll(lambda: not station._thread.is_alive())
            report = station.finish(Deadline(5, "the end"))
    assert report.error in ("ECONNRESET", "EPIPE", "ENOTCONN")
    assert not report.complete
    assert content_errors(report, report.byte_count, report.crc32)


def test_a_missing_peer_is_an_error_of_the_connection() -> None:
    with veth_pair_or_skip() as pair, make(pair.station, TcpEndpointSettings(TcpRole.SINK, PORT, GUEST.ipv4)) as end:
        report = end.finish(Deadline(10, "the refusal"))
    assert (report.error, report.byte_count, report.complete) == ("ECONNREFUSED", 0, False)


def test_differences_are_named() -> None:
    source = TcpEndpointReport(TcpRole.SOURCE, 10, 1, 0, 0, "", True)
    assert content_errors(source, 10, 1) == ()
    assert content_errors(source, 9, 2) == ("10 bytes sent, 9 received",)
    assert content_errors(source, 10, 2) == ("the content was changed on the way",)
    sink = TcpEndpointReport(TcpRole.SINK, 9, 2, 0, 0, "ECONNRESET", False)
    assert content_errors(sink, 10, 1) == ("the sink ended with ECONNRESET", "10 bytes sent, 9 received")
    assert content_errors(source, 10, 1, errno.EPIPE) == ("the sink ended with EPIPE",)


def test_a_port_that_is_taken_is_named() -> None:
    first = TcpEndpoint(TcpEndpointSettings(TcpRole.SINK, 59_998))
    with first, pytest.raises(EnvironmentFailure, match="59998"):
        TcpEndpoint(TcpEndpointSettings(TcpRole.SINK, 59_998))
