"""A process whose descriptor table is full."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Collection

from cprlib.fds.table import read_table


def open_links(pid: int) -> frozenset[str]:
    """What a process has open, as procfs names it; sockets and pipes by their inodes.

    :raises InstrumentError: the process is gone or may not be looked at.
    """
    return frozenset(row.link for row in read_table(pid).rows)


def fill_table(pid: int, left: int = 0, known: Collection[str] | None = None) -> None:
    """Let a process open nothing more: its soft limit is the lowest number that is free.

    A lower one would do more than that: poll(2) refuses more entries than the limit.

    :param left: descriptors that it may open all the same.
    :param known: what :func:`open_links` said earlier: what was opened since is to be replaced by as many when it is
        closed, so the limit lies above all of it. A number below that has become free in the meantime (a connection
        that its other end closed late) can be had too: no limit takes the one and leaves the other.
    """
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    limit = next(itertools.islice((number for number in itertools.count() if number not in used), left, None))
    if known is not None:
        since = (row.number for row in read_table(pid).rows if row.link not in known)
        limit = max(limit, max(since, default=-1) + 1)
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
