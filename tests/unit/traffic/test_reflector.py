"""The reflector in Python is stateful and keeps a log; its pause is an interruption without loss."""

from __future__ import annotations

import signal
import socket
import threading

import pytest

from cprlib.deadline import Deadline
from cprlib.traffic.control_run import check_instrument
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.session import TrafficSession
from cprlib.traffic.stamp import REFLECTOR, ntp_to_ns, sender_packet
from cprlib.traffic.station_endpoints import StampReflector

from .reflector_process import reflector_process
from .veth import veth_pair_or_skip


def ask(peer: socket.socket, sequence: int, size: int = 44) -> tuple[int, ...]:
    peer.send(sender_packet(sequence, 1000 + sequence, size=size))
    answer = peer.recv(2048)
    assert len(answer) == size
    return REFLECTOR.unpack_from(answer)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_each_session_has_a_sequence_of_its_own(address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    with StampReflector(port, [address]) as reflector:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        peers = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
        for peer in peers:
            peer.settimeout(10)
            peer.connect((address, port))
        answers = [ask(peers[turn % 2], turn, 44 + turn) for turn in range(6)]
        peers[0].send(b"short")
        ask(peers[0], 9)
        log = reflector.log()
        ports = [peer.getsockname()[1] for peer in peers]
        for peer in peers:
            peer.close()
    own, sent, _, _, received, numbers, asked, _, _ = zip(*answers, strict=True)
    assert own == (0, 0, 1, 1, 2, 2)
    assert numbers == tuple(range(6))
    assert [ntp_to_ns(stamp) for stamp in asked] == [1000 + turn for turn in range(6)]
    assert all(t2 <= t3 for t2, t3 in zip(received, sent, strict=True))
    assert [(line.sender_sequence, line.peer_port) for line in log[:6]] == [(n, ports[n % 2]) for n in range(6)]
    assert reflector.counts == {"too short": 1}


def test_a_paused_reflector_interrupts_and_loses_nothing() -> None:
    pause_s = 0.3
    with veth_pair_or_skip() as pair:
        with (
            reflector_process(pair.guest) as reflector,
            TrafficSession(pair.station, flows_between(), StreamSettings(1000, count=1500)) as session,
        ):
            session.wait_for_answers(400, Deadline(10, "traffic"))
            reflector.child.send_signal(signal.SIGSTOP)
            threading.Event().wait(pause_s)
            reflector.child.send_signal(signal.SIGCONT)
            session.wait_sent(Deadline(20, "the stream to be sent"))
            session.finish()
            log = reflector.finish()
        result = session.result(log, reflector_drops=reflector.dropped)
    assert check_instrument(result).conclusive
    seen = result.interruption.return_
    assert seen.low_ms is not None
    assert seen.high_ms is not None
    assert seen.high_ms >= pause_s * 1000 - 60  # a receive that had begun may take one packet into the pause
    assert seen.frame_loss_ms == 0
    # its kernel still stamped arrivals: forward was never interrupted for that long
    forward = result.interruption.forward.low_ms
    assert forward is not None
    assert forward < pause_s * 1000
