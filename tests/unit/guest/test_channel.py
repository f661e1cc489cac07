"""The client of the control port, with a guest that sends arbitrary bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Callable

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import CprlibError, DeadlineExceeded, GuestFailed, InstrumentError
from cprlib.guest.agent import AgentConnection
from cprlib.guest.channel import AgentChannel
from cprlib.guest.packet_log import RECORD_SIZE
from cprlib.guest.replies import Clocks, NetInfo, Reply

Script = Callable[[str], bytes]


def serve(connection: socket.socket, script: Script) -> None:
    """Be a guest that answers each request with ``script(id)``."""
    with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:  # the test is over
        for line in stream:
            if line.strip():
                connection.sendall(script(line.split()[0].decode()))


def converse(script: Script, use: Callable[[AgentChannel], object]) -> object:
    """Use a channel whose peer answers each request with ``script(id)``."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(theirs, script), daemon=True)
    thread.start()
    with ours:
        try:
            return use(AgentChannel(ours))
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def answer(identifier: str, rest: str = "", payload: bytes = b"", crc: int | None = None) -> bytes:
    checksum = zlib.crc32(payload) if crc is None else crc
    text = f'\n{{"id":"{identifier}","ok":true{rest},"payload":{len(payload)},"crc32":{checksum}}}\n'
    return text.encode() + payload


def test_answer_with_payload() -> None:
    result = converse(lambda name: answer(name, ',"x":1', b"\n\0bytes"), lambda channel: channel.request("log"))
    assert result.payload == b"\n\0bytes"  # type: ignore[attr-defined]
    assert result.number("x") == 1  # type: ignore[attr-defined]


def test_bytes_that_are_no_answer_are_skipped() -> None:
    noise = b'garbage\n{"id":"other","ok":true,"payload":0,"crc32":0}\n\xff\0\x1b[2J\n' + b"x" * 5000
    converse(lambda name: noise + answer(name), lambda channel: channel.request("ping"))


def test_a_line_without_end_is_bounded() -> None:
    converse(lambda name: b"x" * (3 << 20) + b"\n" + answer(name), lambda channel: channel.request("ping"))


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (lambda name: f'\n{{"id":"{name}","ok":false,"error":"no"}}\n'.encode(), GuestFailed),
        (lambda name: f'\n{{"id":"{name}",invalid\n'.encode(), InstrumentError),
        (lambda name: f'\n{{"id":"{name}","ok":1}}\n'.encode(), InstrumentError),
        (lambda name: f'\n{{"id":"{name}","x":'.encode() + b"[" * 100_000 + b"\n", InstrumentError),
        (lambda name: f'\n{{"id":"{name}","ok":'.encode() + b"[" * 450 + b"]" * 450 + b"}\n", InstrumentError),
        (
            lambda name: f'\n{{"id":"{name}","ok":true,"payload":'.encode() + b"[" * 450 + b"]" * 450 + b"}\n",
            InstrumentError,
        ),
        (lambda name: f'\n{{"id":"{name}","ok":true,"payload":-1,"crc32":0}}\n'.encode(), InstrumentError),
        (lambda name: f'\n{{"id":"{name}","ok":true,"payload":99999999999,"crc32":0}}\n'.encode(), InstrumentError),
        (lambda name: f'\n{{"id":"{name}","ok":true,"payload":true,"crc32":0}}\n'.encode(), InstrumentError),
        (lambda name: answer(name, "", b"data", 1), InstrumentError),
        (lambda name: name[:0].encode(), DeadlineExceeded),
    ],
)
def test_an_invalid_answer_is_an_error(script: Script, error: type[CprlibError]) -> None:
    with pytest.raises(error):
        converse(script, lambda channel: channel.request("ping", seconds=0.2))


def test_a_lost_request_is_sent_again() -> None:
    seen: list[str] = []

    def script(name: str) -> bytes:
        seen.append(name)
        return answer(name) if len(seen) == 3 else b""

    converse(script, lambda channel: channel.request("ping", seconds=10, repeat_after=0.05))
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_a_slow_answer_is_accepted_though_the_request_was_repeated() -> None:
    def script(name: str) -> bytes:
        time.sleep(0.3)
        return answer(name)

    converse(script, lambda channel: channel.request("ping", seconds=5, repeat_after=0.2))


def test_repetitions_become_rarer() -> None:
    seen: list[str] = []

    def script(name: str) -> bytes:
        seen.append(name)
        return b""

    with pytest.raises(DeadlineExceeded):
        converse(script, lambda channel: channel.request("ping", seconds=0.65, repeat_after=0.05))
    assert 3 <= len(seen) <= 4  # after 0, 0.05, 0.15 and 0.35 s


@pytest.mark.parametrize(
    "damage", [b'\n{"id":"NAME","ok":tr', b'\n{"id":"NAME","ok":true,"payload":500,"crc32":1}\nabc']
)
def test_a_damaged_answer_is_followed_by_a_whole_one(damage: bytes) -> None:
    seen: list[str] = []

    def script(name: str) -> bytes:
        seen.append(name)
        return damage.replace(b"NAME", name.encode()) if len(seen) == 1 else answer(name, "", b"whole" * 200)

    result = converse(script, lambda channel: channel.request("files", seconds=10, repeat_after=0.05))
    assert result.payload == b"whole" * 200  # type: ignore[attr-defined]


def test_a_guest_that_only_sends_damaged_answers_is_not_asked_for_ever() -> None:
    seen: list[str] = []

    def script(name: str) -> bytes:
        seen.append(name)
        return answer(name, "", b"data", 1)

    with pytest.raises(InstrumentError, match="checksum"):
        converse(script, lambda channel: channel.request("log", seconds=60, repeat_after=30))
    assert len(seen) == 4


def test_a_guest_that_never_stops_sending_misses_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    ended = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):  # the test is over
            while not ended.is_set():
                theirs.sendall(b"x\n" * 1000)

    thread = threading.Thread(target=send)
    thread.start()
    with theirs:
        with ours, pytest.raises(DeadlineExceeded):
            threading.Timer(2, ended.set).start()
            AgentChannel(ours).request("ping", seconds=0.2)
        assert not ended.is_set()
        ended.set()
        thread.join()


def test_a_log_of_single_records_is_refused() -> None:
    part = f',"record_size":{RECORD_SIZE},"records":1,"total":100000,"overflow":0'
    ours, theirs = socket.socketpair()
    guest = threading.Thread(target=serve, args=(theirs, lambda name: answer(name, part, bytes(RECORD_SIZE))))
    guest.start()
    with ours, pytest.raises(InstrumentError, match="'records' is 1"):
        AgentConnection(ours).reflector_log()
    guest.join()


def test_a_guest_that_forgot_a_connection_is_an_instrument_error() -> None:
    ours, theirs = socket.socketpair()
    guest = threading.Thread(target=serve, args=(theirs, lambda name: answer(name, ',"connections":[]')))
    guest.start()
    with ours, pytest.raises(InstrumentError, match="no connection 0"):
        AgentConnection(ours).finished_tcp(0, Deadline(10, "the end"))
    guest.join()


@pytest.mark.parametrize("depth", [300, 450, 900])
def test_an_answer_of_any_depth_is_an_instrument_error(depth: int) -> None:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    reply = Reply({"nics": value, "stack": {}}, "netinfo")
    with pytest.raises(InstrumentError):
        reply.read(NetInfo)
    assert isinstance(reply.invalid("nics"), InstrumentError)


def test_a_closed_channel_is_a_failure_of_the_guest() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(GuestFailed):
        AgentChannel(ours).request("ping")


def test_a_silent_agent_is_looked_at_once() -> None:
    ours, theirs = socket.socketpair()
    looks: list[str] = []
    with ours, theirs, pytest.raises(DeadlineExceeded):
        AgentChannel(ours, lambda: looks.append("console")).request("ping", seconds=0.2, repeat_after=0.05)
    assert looks == ["console"]


@pytest.mark.parametrize("value", [None, True, "1", 1.5, [], {}, 1 << 70])
def test_an_invalid_number_is_refused(value: object) -> None:
    with pytest.raises(InstrumentError):
        Reply({"realtime_ns": value, "monotonic_ns": 1, "boottime_ns": 1}, "ping").read(Clocks)


def test_hostile_text_is_made_printable() -> None:
    assert Reply({"kernel": "6.12\x1b[2J\n"}, "identity").text("kernel") == "6.12\ufffd[2J\ufffd"
    with pytest.raises(InstrumentError):
        Reply({"kernel": "x" * 5000}, "identity").text("kernel")


def test_a_guest_without_the_nic_is_an_instrument_error() -> None:
    with pytest.raises(InstrumentError):
        NetInfo((), {}).nic()
