"""A wrapper used as QEMU: a script that starts the real QEMU as its child instead of executing it in its place.

QEMU is then below the process that was started, in the same process group, and the last process in the line of descent
whose command line has the words that the wrapper was given.
"""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

from cprlib.linux.procfs import children_of, read_text

SHELL_REPORT = re.compile(r"^(\S+: line \d+: +\d+ )?(Aborted|Bad system call|Segmentation fault|Bus error|Killed)\b")
SHELL_SIGNAL = 128  # exit status of a shell whose child was killed by a signal, less the signal's number (POSIX sh)


def qemu_below(pid: int, word: str) -> int:
    """Process id of the QEMU that is this process, or that a wrapper has started.

    :param pid: the program that was started.
    :param word: a word of its command line that no other QEMU has. Programs that QEMU starts do not have it.
    """
    for child in children_of(pid):
        found = qemu_below(child, word)
        if found != child or word in read_text(Path(f"/proc/{child}/cmdline")).split("\0"):
            return found
    return pid


def last_message(messages: str) -> str:
    """The last line that QEMU wrote, which the shell of a wrapper may follow with one about the signal."""
    lines = messages.strip().splitlines()
    return next((line for line in reversed(lines) if not SHELL_REPORT.search(line)), lines[-1] if lines else "")


def is_script(program: Path) -> bool:
    """Whether an interpreter runs the program."""
    with contextlib.suppress(OSError), program.open("rb") as stream:
        return stream.read(2) == b"#!"
    return False


def status_of_qemu(status: int) -> int:
    """QEMU's exit status, negative for a signal, from that of a wrapper.

    QEMU itself exits with 0 or 1; a shell reports the signal that killed its child as 128 plus the signal's number.
    """
    number = status - SHELL_SIGNAL
    return -number if number in {int(item) for item in signal.Signals} else status
