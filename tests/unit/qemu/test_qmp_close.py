"""A QEMU may die before, while or after it greets: closing the connection must not raise whatever it does."""

import socket
import threading
from pathlib import Path

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import QemuFailed
from cprlib.qemu.qmp import QmpConnection

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}\n'


@pytest.mark.parametrize("said", [b"", GREETING, GREETING[:20], b"nonsense\n"])
@pytest.mark.parametrize("at_once", [True, False])
def test_closing_after_a_peer_that_went_away(tmp_path: Path, said: bytes, at_once: bool) -> None:
    for _ in range(10):
        ours, theirs = socket.socketpair()
        with QmpConnection("target", ours, tmp_path / "qmp.log") as connection:
            theirs.sendall(said)
            closing = threading.Thread(target=theirs.close)
            closing.start()
            if not at_once:
                with pytest.raises(QemuFailed):
                    connection.wait_ready(Deadline(10, "a greeting"))
            closing.join()
