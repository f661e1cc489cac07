"""TCP connections of the agent: content, CRC-32, endpoints."""

from __future__ import annotations

import errno
import socket
import zlib

import pytest

from cprlib.errors import GuestFailed
from cprlib.guest.replies import TcpResult

from .conftest import NativeAgent, free_port

MASK = (1 << 64) - 1


def content(seed: int, byte_count: int) -> bytes:
    """The content that images/guest/agent/content.h defines."""
    words = []
    for number in range((byte_count + 7) // 8):
        x = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
        words.append((x ^ x >> 31).to_bytes(8, "little"))
    return b"".join(words)[:byte_count]


def ended(agent: NativeAgent) -> TcpResult:
    while (result := agent.connection.tcp()[0]).state not in ("done", "failed"):
        pass
    return result


@pytest.mark.parametrize("byte_count", [1, 55, 64, 100_003])
def test_source_sends_the_content_and_its_crc32_is_right(agent: NativeAgent, byte_count: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        agent.connection.start_tcp("source", port, "127.0.0.1", byte_count=byte_count, seed=7)
        peer, _ = server.accept()
        with peer, peer.makefile("rb") as stream:
            received = stream.read()
    result = ended(agent)
    assert received == content(7, byte_count)
    assert (result.state, result.byte_count, result.error) == ("done", byte_count, 0)
    assert result.crc32 == zlib.crc32(received)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_sink_has_the_crc32_of_what_it_gets(agent: NativeAgent, host: str) -> None:
    port = free_port()
    agent.connection.start_tcp("sink", port)
    sent = content(1, 200_000)
    with socket.create_connection((host, port)) as peer:
        peer.sendall(sent)
    result = ended(agent)
    assert (result.state, result.byte_count) == ("done", len(sent))
    assert result.crc32 == zlib.crc32(sent)
    agent.connection.reset_tcp()
    assert agent.connection.tcp() == ()


def test_a_source_keeps_its_rate_and_stops_on_request(agent: NativeAgent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()[1]
        index = agent.connection.start_tcp("source", address, "127.0.0.1", rate=1_000_000)
        peer, _ = server.accept()
        with peer, peer.makefile("rb") as stream:
            first = stream.read(100_000)
            assert agent.connection.tcp()[0].byte_count < 1_000_000
            agent.connection.stop_tcp(index)
            received = first + stream.read()
    result = ended(agent)
    assert result.state == "done"
    assert result.crc32 == zlib.crc32(received)


def test_reset_by_the_other_end_is_a_failure(agent: NativeAgent) -> None:
    port = free_port()
    agent.connection.start_tcp("sink", port)
    peer = socket.create_connection(("127.0.0.1", port))
    peer.sendall(b"byte_count")
    while agent.connection.tcp()[0].byte_count < 6:
        pass
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close sends RST
    peer.close()
    result = ended(agent)
    assert (result.state, result.error) == ("failed", errno.ECONNRESET)


def test_a_missing_listener_is_a_failure(agent: NativeAgent) -> None:
    agent.connection.start_tcp("source", free_port(), "127.0.0.1")
    result = ended(agent)
    assert (result.state, result.error) == ("failed", errno.ECONNREFUSED)


def test_a_role_that_is_none_is_refused(agent: NativeAgent) -> None:
    with pytest.raises(GuestFailed, match="neither source nor sink"):
        agent.connection.start_tcp("both", 1)
