"""The guest's serial console, a file that QEMU writes: wait for a line, and notice a dying kernel."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, GuestFailed

READ_LIMIT = 1 << 20  # bytes read from the end: a guest may write without limit
LINE_LIMIT = 400  # characters of a line that are shown
LINES_SHOWN = 20
POLL_S = 0.02
READY = re.compile(r"^cprlib: ready uptime_ms=\d{1,9} control=(yes|no)$")
STARVED = re.compile(  # a processor got no time: the guest lives
    r"BUG: (?:soft|workqueue) lockup|rcu: INFO: .* stall|rcu: .* kthread (?:starved|timer wakeup)"
)
DYING = re.compile(
    r"Kernel panic|BUG: (?!(?:soft|workqueue) lockup)|Oops: |general protection fault|double fault"
    r"|Unable to mount root"
)
OUT_OF_MEMORY = re.compile(r"\bOut of memory\b|deadlocked on memory")  # Linux: mm/oom_kill.c


class Console:
    """The output of a guest's console.

    :param path: the file of QEMU's chardev; it may not exist yet.
    :param alive: raises when QEMU has ended; called while waiting.
    """

    def __init__(self, path: Path, alive: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._alive = alive

    def lines(self) -> list[str]:
        """The lines of the last MiB, with unprintable characters escaped and long lines cut."""
        try:
            with self.path.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - READ_LIMIT))
                data = stream.read(READ_LIMIT)
        except FileNotFoundError:
            return []
        return [escape(line) for line in data.decode("utf-8", "replace").replace("\r", "").split("\n")]

    def tail(self, count: int = LINES_SHOWN) -> str:
        return "\n".join([line for line in self.lines() if line][-count:])

    def check(self) -> None:
        """Check that the guest's kernel has not died.

        :raises GuestFailed: with the kernel's message.
        """
        self._check(self.lines())

    def ran_out_of_memory(self) -> bool:
        """Whether the guest's kernel said that it has no memory left: it ended processes or itself."""
        return any(OUT_OF_MEMORY.search(line) for line in self.lines())

    def starved(self) -> str:
        """The kernel's first message that a processor got no time for many seconds; empty without one."""
        return next((line for line in self.lines() if STARVED.search(line)), "")

    def wait_for(self, pattern: re.Pattern[str], deadline: Deadline) -> re.Match[str]:
        """Wait for a complete line whose beginning matches the pattern.

        :raises GuestFailed: the guest's kernel died.
        :raises DeadlineExceeded: with the console's last lines.
        """
        # No notification of QEMU's writes works on every file system, hence polling.
        try:
            return deadline.poll(lambda: self._match(pattern), POLL_S)
        except DeadlineExceeded:
            raise deadline.exceeded(
                "the last lines of its console are in the details", "look at the console", details=self.tail()
            ) from None

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait until the agent announces that it serves.

        :param seconds: deadline, scaled.
        :raises GuestFailed: the guest's kernel died.
        :raises DeadlineExceeded: the guest did not boot.
        """
        self.wait_for(READY, Deadline(seconds, "the guest to boot", Awaited.GUEST))

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        lines = self.lines()
        for line in lines[:-1]:  # the last line is incomplete
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
                    "see its messages in the details",
                    details="\n".join(lines[number : number + 60]),
                )


def escape(line: str) -> str:
    """Hostile text as one printable line of bounded length."""
    cut = line[:LINE_LIMIT]
    shown = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in cut)
    return shown + ("[...]" if len(line) > LINE_LIMIT else "")
