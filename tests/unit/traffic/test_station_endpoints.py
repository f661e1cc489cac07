"""The station's endpoints in their worker process answer, connect, report, and fail with a clear error."""

from __future__ import annotations

import socket

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import InstrumentError
from cprlib.traffic.stamp import sender_packet
from cprlib.traffic.station_endpoints import StationEndpoints
from cprlib.traffic.tcp import TcpEndpoint, TcpEndpointSettings, TcpRole, content_errors

pytestmark = pytest.mark.fast


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET6, kind) as opened:
        opened.bind(("::", 0))
        return int(opened.getsockname()[1])


def test_a_datagram_larger_than_the_mtu_is_answered_in_full_and_logged() -> None:
    port = free_port(socket.SOCK_DGRAM)
    with StationEndpoints(port, ("127.0.0.1",)) as ends, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(10)
        peer.connect(("127.0.0.1", port))
        for number in range(3):
            peer.send(sender_packet(number, 1, size=4000))
            assert len(peer.recv(65536)) == 4000
        # a line is written after its answer
        Deadline(10, "the log").poll(lambda: len(ends.reflections().log) == 3)
        seen = ends.reflections()
    assert [line.sender_sequence for line in seen.log] == [0, 1, 2]
    assert seen.dropped == 0


def test_both_ends_of_a_connection_agree_on_its_content() -> None:
    port = free_port(socket.SOCK_STREAM)
    reflecting = free_port(socket.SOCK_DGRAM)
    with (
        StationEndpoints(reflecting, ("127.0.0.1",)) as ends,
        TcpEndpoint(TcpEndpointSettings(TcpRole.SINK, port)) as sink,
    ):
        number = ends.connect(TcpEndpointSettings(TcpRole.SOURCE, port, "::1", rate=2_000_000))
        Deadline(10, "byte_count").poll(lambda: ends.byte_count(number) > 100_000)
        report = ends.finish(number, 10)
        received = sink.finish(Deadline(10, "the end"))
    assert content_errors(report, received.byte_count, received.crc32) == ()
    assert report.byte_count > 100_000


def test_a_taken_port_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        with pytest.raises(InstrumentError, match=f"listen on UDP port {port}"):
            StationEndpoints(port, ("127.0.0.1",))
