"""What QEMU says before it has answered ``qmp_capabilities``."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import QemuFailed
from cprlib.qemu.qmp import QmpConnection

RESUME: dict[str, object] = {"timestamp": {"seconds": 1795610065, "microseconds": 322000}, "event": "RESUME"}


def serve(peer: socket.socket, capabilities: Sequence[str], answers: Sequence[dict[str, object]]) -> object:
    """Be a QEMU that greets, takes one command and says something then; gives back what it was told."""
    version = {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}
    greeting = {"QMP": {"version": version, "capabilities": capabilities}}
    with peer:
        peer.sendall(json.dumps(greeting).encode() + b"\n")
        command = json.loads(peer.recv(4096))  # one message, without an end of line
        number = command.pop("id")
        for answer in answers:
            named = answer if "event" in answer else answer | {"id": number}
            peer.sendall(json.dumps(named).encode() + b"\n")
        peer.recv(4096)  # until the other end goes
    return command


@pytest.mark.parametrize("capabilities", [[], ["oob"]])
def test_an_event_may_come_before_the_answer(tmp_path: Path, capabilities: list[str]) -> None:
    ours, theirs = socket.socketpair()
    told: list[object] = []
    peer = threading.Thread(target=lambda: told.append(serve(theirs, capabilities, [RESUME, {"return": {}}])))
    peer.start()
    with QmpConnection("target-4", ours, tmp_path / "qmp.log") as connection:
        connection.wait_ready(Deadline(10, "the answer"))
        event = connection.wait_event("RESUME", Deadline(10, "the event"))
    peer.join()
    assert event.time_ns == 1795610065_322000_000
    wanted = {"execute": "qmp_capabilities"} | ({"arguments": {"enable": ["oob"]}} if capabilities else {})
    assert told == [wanted]


def test_a_refusal_is_told_in_the_words_of_qemu(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    refusal: dict[str, object] = {"error": {"class": "GenericError", "desc": "no capability for you"}}
    peer = threading.Thread(target=lambda: serve(theirs, [], [refusal]))
    peer.start()
    with (
        QmpConnection("target", ours, tmp_path / "qmp.log") as connection,
        pytest.raises(QemuFailed, match="cannot talk QMP to the target: no capability for you"),
    ):
        connection.wait_ready(Deadline(10, "the answer"))
    peer.join()
