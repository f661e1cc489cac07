"""The cleanup process of :mod:`cprlib.cleanup`: waits for the end of its owner, then removes what was registered.

Run as ``python -I -S cleanup_process.py PIDFD``. Each entry on standard input, which ends with a NUL, registers one
thing: ``group N`` (a process group to kill, instead of the one before; 0 for none), ``folder PATH`` (a folder to remove
with its content), ``instance PATH`` (a folder of tracefs, for rmdir). It acts when the owner of the pidfd has ended or
closes the pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time

REMOVE_S = 10.0  # dying processes may still write into a folder
PAUSE_S = 0.02


def read_requests(owner: int) -> list[str]:
    """All whole entries until the owner has ended or closes the pipe."""
    poll = select.poll()
    poll.register(owner, select.POLLIN)
    poll.register(0, select.POLLIN)
    text = b""
    ended = False
    while not ended:
        ready = {descriptor for descriptor, _ in poll.poll()}
        ended = owner in ready
        os.set_blocking(0, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(0, 4096):
                text += data
            ended = True  # the end of the pipe
    return [os.fsdecode(entry) for entry in text.split(b"\0")[:-1]]


def kill_group(entries: list[str]) -> None:
    """Kill the process group that was registered last, unless that was 0."""
    groups = [int(entry.partition(" ")[2]) for entry in entries if entry.startswith("group ")]
    if groups and groups[-1] > 1:
        with contextlib.suppress(OSError):
            os.killpg(groups[-1], signal.SIGKILL)


def remove(entries: list[str]) -> None:
    """Remove folders, repeatedly while processes still write into them."""
    end = time.monotonic() + REMOVE_S
    left = [entry.partition(" ") for entry in entries if not entry.startswith("group ")]
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
    """Wait, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the owner's end ends this process
    os.chdir("/")
    entries = read_requests(int(sys.argv[1]))
    kill_group(entries)
    remove(entries)


if __name__ == "__main__":
    main()
