"""A guest's serial port on two FIFOs: input, which its kernel echoes, and output that has no room.

The guest's kernel echoes because images/guest/init has the port open as a terminal. Source and target open the same
FIFOs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from operated_guest import OperatedGuest
from operations import Operation

TAKEN_S, ECHO_S = 10.0, 10.0
ROOM = 4096  # bytes of a FIFO: the smallest that the kernel has
DRIVER = "/proc/tty/driver/serial"  # of the guest: bytes that each port was given
SENT = re.compile(r"^1: .*\btx:(\d+)", re.MULTILINE)  # by the second port, ttyS1


class SerialPort:
    """The host's side of the second serial port of each QEMU that has its ``arguments``."""

    def __init__(self, folder: Path) -> None:
        path = folder / "line"
        for name in ("in", "out"):
            os.mkfifo(f"{path}.{name}")
        self.arguments = ("-chardev", f"pipe,id=line,path={path}", "-serial", "chardev:line")
        self._input = os.open(f"{path}.in", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._output = os.open(f"{path}.out", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, ROOM)

    def close(self) -> None:
        os.close(self._input)
        os.close(self._output)

    def send(self, text: bytes) -> None:
        """Send some bytes, fewer than the port's own FIFO holds, and wait until QEMU has taken them."""
        os.write(self._input, text)

        def taken() -> bool:
            return not int.from_bytes(fcntl.ioctl(self._input, termios.FIONREAD, bytes(4)), sys.byteorder)

        Deadline(TAKEN_S, "QEMU to take input of a serial port", Awaited.QEMU).poll(taken, 0.005)

    def echo(self, expected: bytes) -> list[str]:
        """Wait for the guest's echo; returns the problem when it is another one."""
        came, deadline = b"", Deadline(ECHO_S, "the guest's echo", Awaited.GUEST)
        while len(came) < len(expected) and select.select([self._output], [], [], deadline.remaining)[0]:
            came += os.read(self._output, len(expected) - len(came))
        return [] if came == expected else [f"the guest echoed {came!r} of {expected!r}"]

    def fill(self) -> None:
        """Leave no room for output."""
        self.make_room()  # what a QEMU that failed has left
        os.write(self._output, bytes(ROOM))

    def make_room(self) -> None:
        """Take all output that is there."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._output, ROOM)


@contextlib.contextmanager
def serial_port() -> Iterator[SerialPort]:
    """Make the FIFOs, which end with the context."""
    with TemporaryDirectory(prefix="cprlib-") as folder, contextlib.closing(SerialPort(Path(folder))) as port:
        yield port


def serial_moments(port: SerialPort) -> tuple[Operation, ...]:
    """Updates while the port has input that the guest has not read, and output that no reader has taken."""

    def waiting_input(guest: OperatedGuest) -> list[str]:
        port.make_room()
        port.send(b"1st")
        found = port.echo(b"1st")
        guest.machine.qmp.execute("stop")
        port.send(b"2nd")
        guest.updater.live_update("serial-input")
        guest.machine.qmp.execute("cont")
        found += port.echo(b"2nd")
        port.send(b"3rd")
        return found + port.echo(b"3rd")

    def waiting_output(guest: OperatedGuest) -> list[str]:
        sent = _sent(guest)
        port.fill()
        port.send(b"4th")
        given = Deadline(ECHO_S, "the guest to give its echo to the serial port", Awaited.GUEST)
        given.poll(lambda: _sent(guest) >= sent + len(b"4th"), 0.02)
        guest.updater.live_update("serial-output")
        port.make_room()
        found = port.echo(b"4th")
        port.send(b"5th")
        return found + port.echo(b"5th")

    return (
        Operation("serial-input", "the guest echoes what was sent to its serial port", waiting_input),
        Operation("serial-output", "what the guest has written to its serial port comes out", waiting_output),
    )


def _sent(guest: OperatedGuest) -> int:
    """Bytes that the guest has given to its second port."""
    found = SENT.search(guest.agent.files([DRIVER])[DRIVER].text)
    return int(found[1]) if found else 0
