"""The guest's serial console: a file that QEMU writes, watched for the line waited for and for a dying kernel."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, GuestFailed

READ_LIMIT = 1 << 20  # bytes looked at from the end: a guest may write without end
LINE_LIMIT = 400  # characters of a line that are shown
LINES_SHOWN = 20
LOOK_INTERVAL = 0.02  # seconds
READY = re.compile(r"^cprlib: ready uptime_ms=(\d{1,9}) control=(yes|no)$")
DYING = re.compile(r"Kernel panic|BUG: |Oops: |general protection fault|double fault|Unable to mount root")


@dataclass(frozen=True, slots=True)
class Ready:
    """The agent's announcement.

    :param uptime_ms: since the guest's kernel started; :param control: the agent has its virtio-serial port.
    """

    uptime_ms: int
    control: bool


class Console:
    """What a guest wrote to its console, as far as QEMU has written it to a file.

    :param path: the file of QEMU's chardev; it may not exist yet.
    :param alive: raises when QEMU has ended; asked while waiting.
    """

    def __init__(self, path: Path, alive: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._alive = alive

    def lines(self) -> list[str]:
        """The last MiB, in lines, with everything that is not printable escaped, and long lines cut."""
        try:
            with self.path.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - READ_LIMIT))
                data = stream.read(READ_LIMIT)
        except FileNotFoundError:
            return []
        return [escape(line) for line in data.decode("utf-8", "replace").replace("\r", "").split("\n")]

    def tail(self, count: int = LINES_SHOWN) -> str:
        """The last lines, for an error's details."""
        return "\n".join([line for line in self.lines() if line][-count:])

    def check(self) -> None:
        """Look for a dying kernel.

        :raises GuestFailed: with the kernel's words.
        """
        self._check(self.lines())

    def wait_for(self, pattern: re.Pattern[str], deadline: Deadline) -> re.Match[str]:
        """Wait for a whole line that the pattern matches from its beginning.

        :raises GuestFailed: the guest's kernel died instead.
        :raises DeadlineExceeded: with the console's last lines.
        """
        # QEMU's writing to the file is announced by nothing that works on every file system: so look again and again.
        try:
            return deadline.poll(lambda: self._look(pattern), LOOK_INTERVAL)
        except DeadlineExceeded:
            raise deadline.exceeded(
                "the last lines of its console are in the details", "look at the console", details=self.tail()
            ) from None

    def wait_ready(self, seconds: float = 30.0) -> Ready:
        """Wait until the agent says it serves.

        :param seconds: deadline, scaled.
        :raises GuestFailed: the guest's kernel died instead.
        :raises DeadlineExceeded: it did not come up.
        """
        match = self.wait_for(READY, Deadline(seconds, "the guest to come up"))
        return Ready(int(match.group(1)), match.group(2) == "yes")

    def _look(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        lines = self.lines()
        for line in lines[:-1]:  # the last one has no end yet
            match = pattern.match(line)
            if match:
                return match
        self._check(lines)
        self._alive()
        return None

    def _check(self, lines: list[str]) -> None:
        for number, line in enumerate(lines):
            if DYING.search(line):
                raise GuestFailed(
                    "keep the guest running",
                    f"its kernel died: {line}",
                    "an emulator older than QEMU 8 can do that by itself; try another QEMU",
                    details="\n".join(lines[number : number + 60]),
                )


def escape(line: str) -> str:
    """A line of hostile text, printable and bounded."""
    cut = line[:LINE_LIMIT]
    shown = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in cut)
    return shown + ("[...]" if len(line) > LINE_LIMIT else "")
