"""Input of a guest's serial port, which the guest's kernel echoes (images/guest/init has it open as a terminal)."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.qemu.machine import Machine
from operated_guest import OperatedGuest
from operations import Operation

CHARDEV = "line"
ARGUMENTS = ("-chardev", f"null,id={CHARDEV}", "-serial", f"chardev:{CHARDEV}")  # the second port: ttyS1
TAKEN_S, ECHO_S = 10.0, 10.0


@contextlib.contextmanager
def connected(machine: Machine) -> Iterator[socket.socket]:
    """Connect a socket to the serial port for a while; before and afterwards the port is connected to nothing."""
    with TemporaryDirectory(prefix="cprlib-") as folder, socket.socket(socket.AF_UNIX) as listening:
        path = str(Path(folder) / "serial")  # a path has room for about 100 bytes, so not in the case's folder
        listening.bind(path)
        listening.listen(1)
        address = {"type": "unix", "data": {"path": path}}
        _change(machine, "socket", {"addr": address, "server": False})
        connection, _ = listening.accept()
        with connection:
            yield connection
            _change(machine, "null", {})


def _change(machine: Machine, kind: str, data: dict[str, object]) -> None:
    machine.qmp.execute("chardev-change", {"id": CHARDEV, "backend": {"type": kind, "data": data}})


def _send(connection: socket.socket, text: bytes) -> None:
    """Send some bytes, fewer than the port's FIFO holds, and wait until QEMU has taken them."""
    connection.sendall(text)

    def taken() -> bool:
        return not int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    Deadline(TAKEN_S, "QEMU to take input of a serial port", Awaited.QEMU).poll(taken, 0.005)


def _echo(connection: socket.socket, expected: bytes) -> list[str]:
    """Wait for the guest's echo; returns the problem when it is another one."""
    came = b""
    connection.settimeout(Deadline(ECHO_S, "the guest's echo", Awaited.GUEST).remaining)
    with contextlib.suppress(TimeoutError):
        while len(came) < len(expected) and (more := connection.recv(64)):
            came += more
    return [] if came == expected else [f"the guest echoed {came!r} of {expected!r}"]


def serial_input(guest: OperatedGuest) -> list[str]:
    """Input of a serial port that comes while the guest is paused arrives in the target, and later input too."""
    machine = guest.machine
    with connected(machine) as connection:
        _send(connection, b"1st")
        found = _echo(connection, b"1st")
        machine.qmp.execute("stop")
        _send(connection, b"2nd")
    guest.updater.live_update("serial-input")
    with connected(guest.machine) as connection:
        guest.machine.qmp.execute("cont")
        found += _echo(connection, b"2nd")
        _send(connection, b"3rd")
        return found + _echo(connection, b"3rd")


SERIAL_INPUT = Operation("serial-input", "the guest echoes what was sent to its serial port", serial_input)
