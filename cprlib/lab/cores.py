"""One core for one lab.

A user-mode Linux is two or more processes that take turns; on one core they take turns twice as fast as on two
(importing scapy and pyroute2 in a lab: 1.3 s against 2.6 s, with another program running on the machine).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from cprlib.files import cache_folder


@contextlib.contextmanager
def reserved_core() -> Iterator[int]:
    """A core that no other lab of this user has reserved; when there is none, one of them all the same.

    The reservation is a file lock, so it ends with its holder, however that ends.
    """
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        core = next((core for core in cores if _reserve(core, stack)), None)
        yield cores[os.getpid() % len(cores)] if core is None else core


def _reserve(core: int, stack: contextlib.ExitStack) -> bool:
    """Reserve a core until the stack is left; False when another lab has it."""
    folder = cache_folder() / "lab-cores"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / str(core), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return False  # a cache of somebody else's, only to be read: then without reservation
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
