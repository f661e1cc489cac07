"""The control port: requests, refusals, and a change of the channel during an answer."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import threading
import time
import tty
from itertools import pairwise
from pathlib import Path

import pytest

from cprlib.errors import GuestFailed
from cprlib.guest.agent import AgentConnection
from cprlib.guest.packet_log import RecordKind
from cprlib.guest.replies import SenderStream
from cprlib.process import spawn

from .conftest import NativeAgent, free_port


def test_identity_and_network_are_this_machines(agent: NativeAgent) -> None:
    identity = agent.connection.identity()
    assert identity.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert identity.kernel == os.uname().release
    network = agent.connection.network()
    assert network.stack["Ip.DefaultTTL"] > 0
    assert not [name for name, count in network.stack.items() if count == 0]
    names = {path.name for path in Path("/sys/class/net").iterdir()} - {"lo"}
    assert {nic.name for nic in network.nics} <= names


@pytest.mark.parametrize(
    ("family", "host", "counter"),
    [(socket.AF_INET, "127.0.0.1", "Udp.NoPorts"), (socket.AF_INET6, "::1", "Udp6NoPorts")],
)
def test_packets_to_a_closed_port_are_counted(
    agent: NativeAgent, family: socket.AddressFamily, host: str, counter: str
) -> None:
    before = agent.connection.network().stack.get(counter, 0)
    with socket.socket(family, socket.SOCK_DGRAM) as station:
        station.sendto(b"", (host, free_port()))
    assert agent.connection.network().stack[counter] > before


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b"nosuch", "unknown command nosuch"),
        (b"log of=everything", "neither reflector nor sender"),
        (b"sender-start destination=somewhere rate=1", "no address: somewhere"),
        (b"sender-start destination=127.0.0.1 rate=0", "rate=0 is not between"),
        (b"sender-start destination=127.0.0.1 rate=-1", "rate=-1 is not between"),
        (b"sender-start destination=127.0.0.1 size=43", "size=43 is not between"),
        (b"sender-start rate=1", "destination= is missing"),
        (b"set-channels device=nosuch pairs=2", "No such device"),
        (b"ping x", "no key=value"),
        (b"poweroff", "not process 1"),
        (b"reboot", "not process 1"),
        (b"unbind device=../lo", "is no name"),
        (b"unbind device=lo", "No such file"),
        (b"ring-break device=lo", "No such file"),
        (b"ring-kick", "no ring is broken"),
        (b"ring-end name=../lo driver=virtio-pci", "is no name"),
        (b"write-port port=65536 value=1", "port=65536 is not between"),
        (b"write-file path=/nonexistent bytes=10", "No such file"),
        (b"write-file path=/nonexistent bytes=1", "is not 1 to 16 bytes"),
        (b"write-file path=/nonexistent bytes=1x", "is not 1 to 16 bytes"),
        (b"write-file path=/nonexistent offset=0", "bytes= is missing"),
        (b"bind name=virtio0 driver=../x", "is no name"),
        (b"bind name=virtio0 driver=nosuch", "No such file"),
        (b"configure device=lo ipv4=10.0.0.1 ipv6=fd00::1/64", "ipv4=10.0.0.1 is no address with a prefix"),
        (b"configure device=lo ipv4=10.0.0.1/8 ipv6=fd00::1/129", "ipv6=fd00::1/129 is no address with a prefix"),
        (b"configure device=nosuch ipv4=10.0.0.1/8 ipv6=fd00::1/64", "No such device"),
        (b"rss device=nosuch", "No such device"),
        (b"rss-set device=nosuch key=00", "No such device"),
        (b"vlan device=eth0 action=add", "vlan= is missing"),
        (b"filter device=eth0 action=add mac=invalid", "is no address"),
        (b"interface device=eth0 mac=invalid", "is no address"),
        (b"interface device=eth0 promisc=2", "promisc=2 is not between"),
        (b"interface device=nosuch promisc=1", "No such device"),
        (b"feature device=lo on=1", "feature= is missing"),
        (b"feature device=nosuch feature=rx-lro on=1", "No such device"),
        (b"feature device=lo feature=nosuch on=1", "No such file"),
        (b"feature device=lo feature=highdma on=0", "not supported"),
        (b"defer wait_us=1", "device= is missing"),
        (b"defer device=nosuch wait_us=1", "No such file"),
        (b"defer device=../lo wait_us=1", "is no name"),
        (b"defer device=lo wait_us=60000001", "wait_us=60000001 is not between"),
        (b"filter device=eth0 action=sing mac=01:00:5e:00:00:01", "neither add nor remove"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(agent: NativeAgent, request_line: bytes, error: str) -> None:
    agent.raw.sendall(b"\nx1 " + request_line + b"\n")
    stream = agent.raw.makefile("rb")
    assert stream.readline() == b"\n"
    answer = stream.readline().decode()
    assert answer.startswith('{"id":"x1","ok":false')
    assert error in answer


def test_a_refusal_is_an_error_with_the_agents_message(agent: NativeAgent) -> None:
    with pytest.raises(GuestFailed, match="No such device"):
        agent.connection.set_queue_pairs(2, "nosuch")


@pytest.mark.parametrize(
    "garbage", [b"half a requ", b"\0\xff\n\n\n", b"x" * 5000, b"=\n= =\n", b"id-only\n", b"\"q' ping\n"]
)
def test_garbage_before_a_request_does_no_harm(agent: NativeAgent, garbage: bytes) -> None:
    agent.raw.sendall(garbage)
    agent.connection.ping(5)


def test_a_repetition_does_not_cut_the_answer_that_is_being_written(agent: NativeAgent, tmp_path: Path) -> None:
    """The answer is larger than the socket's buffer, so that its end is not written when the repetition arrives."""
    for number in range(3):
        (tmp_path / str(number)).write_bytes(b"\xff" * 130_000)
    request = f"\nx1 files of={tmp_path}/*\n".encode()
    agent.raw.sendall(request)
    time.sleep(0.2)  # its beginning is written
    agent.raw.sendall(request)
    time.sleep(0.2)  # it has arrived
    stream = agent.raw.makefile("rb")
    assert stream.readline() == b"\n"
    payload = stream.read(json.loads(stream.readline())["payload"])
    assert payload.count(b"\xff") == 390_000
    agent.connection.ping()


def test_log_of_many_pieces_arrives_whole(agent_program: Path) -> None:
    """A log larger than one answer is fetched in parts."""
    ours, theirs = socket.socketpair()
    count = 30_000
    command = [str(agent_program), "--fd", str(theirs.fileno()), "--udp", str(free_port()), "--log", str(count + 10)]
    with ours, theirs, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as station:
        station.bind(("127.0.0.1", 0))
        with spawn(command, purpose="start the agent", pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL):
            connection = AgentConnection(ours)
            port = station.getsockname()[1]
            connection.start_stream("127.0.0.1", 100_000, count=count, port=port)
            while connection.streams()[0].active:
                pass
            log = connection.sender_log()
    assert [record.sender_sequence for record in log] == list(range(count))


def test_slots_of_a_long_pause_are_skipped(agent_program: Path) -> None:
    ours, theirs = socket.socketpair()
    command = [str(agent_program), "--fd", str(theirs.fileno()), "--udp", str(free_port()), "--log", "5000"]
    with (
        ours,
        theirs,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as station,
        spawn(command, purpose="start the agent", pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL) as process,
    ):
        station.bind(("127.0.0.1", 0))
        connection = AgentConnection(ours)
        connection.start_stream("127.0.0.1", 900, port=station.getsockname()[1])
        time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.8)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        connection.stop_stream(0)
        sent_ns = [record.a_ns for record in connection.sender_log()]
    pause_ns = max(later - earlier for earlier, later in pairwise(sent_ns))
    skipped = (sent_ns[-1] - sent_ns[0]) * 900 / 1e9 - len(sent_ns)
    assert skipped >= (pause_ns - 100_000_000) * 900 / 1e9 - 20


def test_guests_stream_is_logged_in_both_directions(agent: NativeAgent) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as station:
        station.bind(("127.0.0.1", 0))
        station.settimeout(5)
        port = station.getsockname()[1]
        started = time.time_ns()
        agent.connection.start_stream("127.0.0.1", 1000, count=20, size=200, port=port, ssid=5)
        for number in range(20):
            packet, peer = station.recvfrom(2000)
            assert len(packet) == 200
            assert packet[14:16] == b"\0\5"
            answer = packet[:16] + packet[4:12] + packet[:4] + packet[4:14] + bytes(2) + b"\x40" + bytes(3)
            if number == 0:
                station.sendto(b"foreign", peer)
            if number != 7:
                station.sendto(answer.ljust(200, b"\0"), peer)
        (stream,) = _settled(agent, 19)
        log = agent.connection.sender_log()
    assert (stream.sent, stream.answers, stream.foreign, stream.active) == (20, 19, 1, False)
    sent = {record.sender_sequence: record.a_ns for record in log.of_kind(RecordKind.SENT)}
    answered = {record.sender_sequence: record.c_ns for record in log.of_kind(RecordKind.ANSWER)}
    assert sorted(sent) == list(range(20))
    assert set(sent) - set(answered) == {7}
    assert all(answered[number] > sent[number] for number in answered)
    assert all(sent[number] >= started + number * 1_000_000 for number in range(20))  # none before its slot
    agent.connection.reset_streams()
    assert agent.connection.streams() == ()


def _settled(agent: NativeAgent, answers: int) -> tuple[SenderStream, ...]:
    streams = agent.connection.streams()
    while streams[0].answers < answers:
        streams = agent.connection.streams()
    return streams


def test_a_missing_reflector_is_counted_not_fatal(agent: NativeAgent) -> None:
    agent.connection.start_stream("127.0.0.1", 1000, count=5, port=free_port())
    while agent.connection.streams()[0].active:
        pass
    (stream,) = agent.connection.streams()
    assert stream.sent == 5
    assert stream.send_icmp_errors > 0
    assert stream.send_failed == 0


class Line:
    """A serial line between a terminal (the agent's side) and a socket that can be replaced, with loss of bytes."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)

    def relay(self, most: int | None = None) -> socket.socket:
        """A new socket for the client; after ``most`` bytes towards it the rest is lost."""
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._up, args=(theirs, most), daemon=True).start()
        threading.Thread(target=self._down, args=(theirs,), daemon=True).start()
        return ours

    def _down(self, theirs: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the test is over
            while data := theirs.recv(4096):
                os.write(self.master, data)

    def _up(self, theirs: socket.socket, most: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while most is None or passed < most:
                data = os.read(self.master, 4096)
                data = data if most is None else data[: most - passed]
                theirs.sendall(data)
                passed += len(data)


def test_channel_may_be_exchanged_in_the_middle_of_an_answer(agent_program: Path) -> None:
    line = Line()
    command = [str(agent_program), "--fd", str(line.slave), "--udp", str(free_port())]
    with spawn(command, purpose="start the agent", pass_fds=[line.slave], stdout=subprocess.DEVNULL):
        first = line.relay(most=200)
        connection = AgentConnection(first)
        connection.ping()
        first.sendall(b"\nlost netinfo\nhalf a req")
        assert first.recv(10)
        second = line.relay()
        connection.use(second)
        assert connection.identity().kernel == os.uname().release
        connection.ping()
