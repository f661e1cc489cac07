"""The session-reflector behaves as RFC 8762 says; scapy's layer is the reference."""

from __future__ import annotations

import socket
import time

import pytest
from scapy.contrib.stamp import STAMPSessionReflectorTestUnauthenticated, STAMPSessionSenderTestUnauthenticated

from cprlib.guest.packet_log import RecordKind, reflections

from .conftest import NativeAgent

NTP_TO_UNIX = 2208988800
ADDRESSES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


def sender_packet(sequence: int, size: int = 44, ssid: int = 0) -> bytes:
    now = time.time() + NTP_TO_UNIX
    return bytes(STAMPSessionSenderTestUnauthenticated(seq=sequence, ts=now, ssid=ssid)).ljust(size, b"\xa5")


def peer(agent: NativeAgent, family: int = socket.AF_INET, host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.connect((host, agent.port))
    return sock


@pytest.mark.parametrize(("family", "host"), ADDRESSES)
def test_answer_has_the_layout_of_rfc_8762(agent: NativeAgent, family: int, host: str) -> None:
    with peer(agent, family, host) as sock:
        before = time.time_ns()
        sent = sender_packet(7, ssid=0x1234)
        sock.send(sent)
        data = sock.recv(2000)
        after = time.time_ns()
    answer = STAMPSessionReflectorTestUnauthenticated(data)
    assert len(data) == 44
    assert (answer.seq, answer.seq_sender, answer.ssid) == (0, 7, 0x1234)
    assert data[28:36] == sent[4:12]
    assert data[36:38] == sent[12:14]
    assert data[38:40] == data[41:44].ljust(2, b"\0")[:2] == b"\0\0"
    sender_ttl = data[40]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        level, option = (
            (socket.IPPROTO_IP, socket.IP_TTL)
            if family == socket.AF_INET
            else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
        )
        assert sender_ttl == probe.getsockopt(level, option)
    assert answer.err_estimate.multiplier != 0
    assert answer.err_estimate.Z == 0
    slack = 1e-6
    received, replied = float(answer.ts_rx) - NTP_TO_UNIX, float(answer.ts) - NTP_TO_UNIX
    assert before / 1e9 - slack <= received <= replied + slack
    assert replied <= after / 1e9 + slack


def test_answer_is_as_long_as_the_question(agent: NativeAgent) -> None:
    with peer(agent) as sock:
        for size in (44, 45, 1400, 9000):
            sock.send(sender_packet(0, size))
            data = sock.recv(10000)
            assert len(data) == size
            assert data[44:] == b"\xa5" * (size - 44)


def test_each_session_is_numbered_by_itself(agent: NativeAgent) -> None:
    with peer(agent) as one, peer(agent) as other:
        for count, (sock, ssid) in enumerate([(one, 0), (other, 0), (one, 0), (one, 9), (other, 0)]):
            sock.send(sender_packet(100 + count, ssid=ssid))
            sock.recv(2000)
        log = list(agent.connection.reflector_log())
        counters = agent.connection.reflector()
    assert [(record.session, record.reflector_sequence) for record in log] == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1)]
    assert [record.sender_sequence for record in log] == [100, 101, 102, 103, 104]
    assert [session.packets for session in counters.sessions] == [2, 2, 1]
    assert counters.received == counters.reflected == 5


def test_foreign_packets_are_counted_and_not_answered(agent: NativeAgent) -> None:
    with peer(agent) as sock:
        sock.send(b"")
        sock.send(b"hello")
        sock.send(b"\0" * 44)  # an error estimate with multiplier 0: corrupt (RFC 4656 section 4.1.2)
        sock.send(sender_packet(1))
        assert sock.recv(2000)[24:28] == b"\0\0\0\1"
    counters = agent.connection.reflector()
    assert (counters.received, counters.short, counters.corrupt, counters.reflected) == (4, 2, 1, 1)
    assert counters.socket_drops == 0


def test_the_log_has_peer_times_and_packet(agent: NativeAgent) -> None:
    with peer(agent) as sock:
        before = time.time_ns()
        packet = sender_packet(3, 100)
        sock.send(packet)
        data = sock.recv(2000)
        after = time.time_ns()
        port = sock.getsockname()[1]
    log = agent.connection.reflector_log()
    (record,) = log
    assert before <= record.a_ns <= record.b_ns <= after
    assert (record.size, record.kind, record.flags) == (100, RecordKind.REFLECTED, 0)
    assert abs(record.c_ns - before) < 1e9
    assert data[24:28] == b"\0\0\0\3"
    (line,) = reflections(log, agent.connection.reflector().peers)
    assert (line.peer, line.peer_port, line.received_ns) == ("127.0.0.1", port, record.a_ns)


def test_log_is_bounded_and_what_did_not_fit_is_counted(agent: NativeAgent) -> None:
    with peer(agent) as sock:
        packet = sender_packet(0)
        for _ in range(1100):
            sock.send(packet)
            sock.recv(2000)
    log = agent.connection.reflector_log()
    assert len(log) == 1000
    assert log.overflow == 100
    assert agent.connection.reflector().reflected == 1100


def test_reset_starts_again(agent: NativeAgent) -> None:
    with peer(agent) as sock:
        for _ in range(2):
            sock.send(sender_packet(5))
            assert sock.recv(2000)[:4] == b"\0\0\0\0"
            agent.connection.reset_reflector()
    counters = agent.connection.reflector()
    assert counters.received == counters.log_records == len(counters.sessions) == 0


def test_burst_is_not_dropped(agent: NativeAgent) -> None:
    buffer = agent.connection.reflector().receive_buffer
    burst = min(8000, buffer // 2 // 1000)  # without the right to force it the buffer is the system's default
    with peer(agent) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        packet = sender_packet(0)
        for _ in range(burst):
            sock.send(packet)
        agent.connection.ping()
        deadline = time.monotonic() + 10
        while agent.connection.reflector().received < burst and time.monotonic() < deadline:
            pass
    counters = agent.connection.reflector()
    assert counters.received == counters.reflected == burst
    assert counters.socket_drops == 0


def test_a_paused_reflector_lets_packets_wait_and_answers_them_afterwards(agent: NativeAgent) -> None:
    agent.connection.pause_reflector()
    agent.connection.pause_reflector()  # a request may come twice
    with peer(agent) as sock:
        for sequence in range(20):
            sock.send(sender_packet(sequence))
        assert agent.connection.reflector().received == 0
        agent.connection.pause_reflector(paused=False)
        answers = [STAMPSessionReflectorTestUnauthenticated(sock.recv(2000)).seq_sender for _ in range(20)]
    assert answers == list(range(20))
    assert agent.connection.reflector().socket_drops == 0


def test_a_paused_reflector_with_a_small_buffer_counts_what_found_no_room(agent: NativeAgent) -> None:
    agent.connection.pause_reflector(receive_buffer=8192)
    with peer(agent) as sock:
        for sequence in range(100):
            sock.send(sender_packet(sequence))
        agent.connection.pause_reflector(paused=False, receive_buffer=1 << 20)
        sock.send(sender_packet(100))
        answers: list[int] = []
        while not answers or answers[-1] != 100:
            answers.append(STAMPSessionReflectorTestUnauthenticated(sock.recv(2000)).seq_sender)
    counted = agent.connection.reflector()
    assert answers[:-1] == list(range(len(answers) - 1))  # the first ones were kept
    assert counted.socket_drops == 101 - len(answers) > 0
