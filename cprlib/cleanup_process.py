"""The process behind :mod:`cprlib.cleanup`: waits for the end of another one, then removes what that one has named.

Run as ``python -I -S cleanup_process.py PIDFD``. What to do comes in lines on standard input, kept until the owner of
the pidfd has ended, however that happened, or has closed the pipe: ``group N`` (kill this process group; 0 takes it
back), ``folder PATH`` (remove it with all that is in it), ``instance PATH`` (rmdir: a folder of tracefs).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time

PATIENCE_S = 10.0  # processes that are dying may still write into a folder that is being removed
PAUSE_S = 0.02


def hear(owner: int) -> list[str]:
    """All lines, until the owner has ended or the pipe is closed."""
    poll = select.poll()
    poll.register(owner, select.POLLIN)
    poll.register(0, select.POLLIN)
    said = b""
    ended = False
    while not ended:
        ready = {descriptor for descriptor, _ in poll.poll()}
        ended = owner in ready
        os.set_blocking(0, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(0, 4096):
                said += data
            ended = True  # the end of the pipe
    return said.decode("utf-8", "surrogateescape").splitlines()


def kill_group(lines: list[str]) -> None:
    """Kill the process group that was named last, unless it was taken back."""
    groups = [int(line.partition(" ")[2]) for line in lines if line.startswith("group ")]
    if groups and groups[-1] > 1:
        with contextlib.suppress(OSError):
            os.killpg(groups[-1], signal.SIGKILL)


def remove(lines: list[str]) -> None:
    """Remove what was named; again and again while somebody still writes there."""
    end = time.monotonic() + PATIENCE_S
    left = [line.partition(" ") for line in lines if not line.startswith("group ")]
    while left and time.monotonic() < end:
        for kind, _, path in left:
            if kind == "folder":
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.rmdir(path)
        left = [item for item in left if os.path.lexists(item[2])]
        if left:
            time.sleep(PAUSE_S)


def main() -> None:
    """Wait, then sweep."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the owner decides when it is over
    os.chdir("/")
    lines = hear(int(sys.argv[1]))
    kill_group(lines)
    remove(lines)


if __name__ == "__main__":
    main()
