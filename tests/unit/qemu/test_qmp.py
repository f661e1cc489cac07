"""QMP connections: events and errors during the negotiation, and closing after QEMU has died."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, QemuFailed, QmpRefused
from cprlib.qemu.qmp import QmpConnection

RESUME: dict[str, object] = {"timestamp": {"seconds": 1795610065, "microseconds": 322000}, "event": "RESUME"}


def serve(peer: socket.socket, capabilities: Sequence[str], messages: Sequence[dict[str, object]]) -> object:
    """Act as a QEMU that greets, reads one command and sends messages; return the command."""
    version = {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}
    greeting = {"QMP": {"version": version, "capabilities": capabilities}}
    with peer:
        peer.sendall(json.dumps(greeting).encode() + b"\n")
        command = json.loads(peer.recv(4096))  # one message without a newline
        number = command.pop("id")
        for message in messages:
            sent = message if "event" in message else message | {"id": number}
            peer.sendall(json.dumps(sent).encode() + b"\n")
        peer.recv(4096)  # until the other end closes
    return command


@pytest.mark.parametrize("capabilities", [[], ["oob"]])
def test_event_may_come_before_the_reply(tmp_path: Path, capabilities: list[str]) -> None:
    ours, theirs = socket.socketpair()
    received: list[object] = []
    peer = threading.Thread(target=lambda: received.append(serve(theirs, capabilities, [RESUME, {"return": {}}])))
    peer.start()
    with QmpConnection("target-4", ours, tmp_path / "qmp.log") as connection:
        connection.wait_ready(Deadline(10, "the reply"))
        event = connection.wait_event("RESUME", deadline=Deadline(10, "the event"))
    peer.join()
    assert event.time_ns == 1795610065_322000_000
    expected = {"execute": "qmp_capabilities"} | ({"arguments": {"enable": ["oob"]}} if capabilities else {})
    assert received == [expected]


def test_a_qemu_executed_in_place_greets_on_the_same_connection(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    greeting = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 10}, "package": ""}, "capabilities": []}}
    commands: list[str] = []

    def reply() -> None:
        command = json.loads(theirs.recv(4096))
        commands.append(command["execute"])
        theirs.sendall(json.dumps({"return": {}, "id": command["id"]}).encode() + b"\n")

    def server() -> None:
        for _ in range(2):
            theirs.sendall(json.dumps(greeting).encode() + b"\n")
            reply()
            theirs.sendall(json.dumps(RESUME).encode() + b"\n")

    peer = threading.Thread(target=server)
    peer.start()
    with theirs, QmpConnection("source", ours, tmp_path / "qmp.log") as connection:
        connection.wait_ready(Deadline(10, "the reply"))
        Deadline(10, "another greeting").poll(lambda: connection.greetings == 1, 0.01)
        connection.negotiate_again()
        connection.wait_event("RESUME", deadline=Deadline(10, "the event"), after=1)
    peer.join()
    assert commands == ["qmp_capabilities"] * 2


def test_refusal_has_qemus_message(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    refusal: dict[str, object] = {"error": {"class": "GenericError", "desc": "no capability for you"}}
    peer = threading.Thread(target=lambda: serve(theirs, [], [refusal]))
    peer.start()
    with (
        QmpConnection("target", ours, tmp_path / "qmp.log") as connection,
        pytest.raises(QemuFailed, match="cannot talk QMP to the target: no capability for you"),
    ):
        connection.wait_ready(Deadline(10, "the reply"))
    peer.join()


GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}\n'


@pytest.mark.parametrize("sent", [b"", GREETING, GREETING[:20], b"nonsense\n"])
@pytest.mark.parametrize("immediately", [True, False])
def test_closing_after_qemu_died_raises_nothing(tmp_path: Path, sent: bytes, immediately: bool) -> None:
    for _ in range(10):
        ours, theirs = socket.socketpair()
        with QmpConnection("target", ours, tmp_path / "qmp.log") as connection:
            theirs.sendall(sent)
            closing = threading.Thread(target=theirs.close)
            closing.start()
            if not immediately:
                with pytest.raises(QemuFailed):
                    connection.wait_ready(Deadline(10, "a greeting"))
            closing.join()


def test_a_command_after_the_connection_broke_fails_at_once(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()

    def server() -> None:
        with theirs:
            theirs.sendall(GREETING)
            for _ in range(2):
                command = json.loads(theirs.recv(4096))
                if command["execute"] == "qmp_capabilities":
                    theirs.sendall(json.dumps({"return": {}, "id": command["id"]}).encode() + b"\n")

    peer = threading.Thread(target=server)
    peer.start()
    with QmpConnection("source", ours, tmp_path / "qmp.log") as connection:
        for _ in range(2):  # the first waits when it breaks
            with pytest.raises(QemuFailed, match="the connection broke"):
                connection.execute("query-status")
    peer.join()


@pytest.mark.parametrize("awaited", ["RESUME", "STOP"])
def test_waiting_for_an_event_ends_with_the_connection(tmp_path: Path, awaited: str) -> None:
    ours, theirs = socket.socketpair()

    def server() -> None:
        with theirs:
            theirs.sendall(GREETING)
            number = json.loads(theirs.recv(4096))["id"]
            theirs.sendall(json.dumps({"return": {}, "id": number}).encode() + b"\n")
            theirs.sendall(json.dumps(RESUME).encode() + b"\n")

    peer = threading.Thread(target=server)
    peer.start()
    with QmpConnection("source", ours, tmp_path / "qmp.log") as connection:
        connection.wait_ready(Deadline(10, "the reply"))
        expected = contextlib.nullcontext() if awaited == "RESUME" else pytest.raises(QemuFailed, match="broke")
        with expected:
            connection.wait_event(awaited, deadline=Deadline(10, "the event"))
    peer.join()


def serve_many(peer: socket.socket, replies: Sequence[dict[str, object] | None]) -> None:
    """Act as a QEMU that reads as many commands as there are replies, and sends these; None ends it."""
    stream = peer.makefile("rb")
    with peer, stream:
        peer.sendall(GREETING)
        data = b""

        def read(count: int) -> list[dict[str, object]]:
            """Read commands, which have no newline."""
            nonlocal data
            commands: list[dict[str, object]] = []
            while len(commands) < count:
                data += peer.recv(65536)
                while data:
                    try:
                        command, end = json.JSONDecoder().raw_decode(data.decode())
                    except ValueError:
                        break
                    commands.append(command)
                    data = data[end:]
            return commands

        (negotiation,) = read(1)
        peer.sendall(json.dumps({"return": {}, "id": negotiation["id"]}).encode() + b"\n")
        for command, reply in zip(read(len(replies)), replies, strict=True):
            if reply is None:
                return
            peer.sendall(json.dumps(RESUME).encode() + b"\n")
            peer.sendall(json.dumps(reply | {"id": command["id"]}).encode() + b"\n")
        peer.recv(1)


COMMANDS = [("query-a", None), ("query-b", {"x": 1}), ("query-c", None)]


def test_many_commands_at_once(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    replies: list[dict[str, object] | None] = [
        {"return": {"a": 1}},
        {"error": {"class": "CommandNotFound", "desc": "no b"}},
        {"return": []},
    ]
    peer = threading.Thread(target=serve_many, args=(theirs, replies))
    peer.start()
    with QmpConnection("source", ours, tmp_path / "qmp.log") as connection:
        first, second, third = connection.execute_all(COMMANDS)
    peer.join()
    assert first == {"a": 1}
    assert third == []
    assert isinstance(second, QmpRefused)
    assert (second.happened, second.error_class) == ("no b", "CommandNotFound")


@pytest.mark.parametrize("last", [None, {"error": "broken"}, {"return": {}, "error": 3}, {}])
def test_a_qemu_that_dies_among_many_commands(tmp_path: Path, last: dict[str, object] | None) -> None:
    ours, theirs = socket.socketpair()
    peer = threading.Thread(target=serve_many, args=(theirs, [{"return": {}}, {"return": {}}, last]))
    peer.start()
    with QmpConnection("source", ours, tmp_path / "qmp.log") as connection, pytest.raises(QemuFailed):
        connection.execute_all(COMMANDS)
    peer.join()


@pytest.mark.parametrize(("late_s", "accused"), [(5.0, False), (0.0, True)])
def test_a_qemu_is_not_accused_of_the_time_in_which_this_process_was_stopped(
    tmp_path: Path, late_s: float, accused: bool
) -> None:
    """Ctrl-Z and fg: when the process runs again, the time has long been up, and QEMU had none either."""
    ours, theirs = socket.socketpair()

    def server() -> None:
        theirs.sendall(b'{"QMP": {"version": {"qemu": {}, "package": ""}, "capabilities": []}}\n')
        for messages in ([], [RESUME]):
            number = json.loads(theirs.recv(4096))["id"]
            time.sleep(0.1)
            for message in ({"return": {}, "id": number}, *messages):
                theirs.sendall(json.dumps(message).encode() + b"\n")
                time.sleep(0.1)

    peer = threading.Thread(target=server)
    peer.start()
    refused = pytest.raises(DeadlineExceeded) if accused else contextlib.nullcontext()
    with theirs, QmpConnection("source", ours, tmp_path / "qmp.log") as connection:
        connection.wait_ready(Deadline(10, "the reply"))
        with refused:
            connection.execute("query-status", seconds=-late_s)
        if not accused:
            assert connection.wait_event("RESUME", deadline=Deadline(-late_s, "the event"))
        peer.join()
