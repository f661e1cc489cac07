"""A process whose descriptor table is full."""

from __future__ import annotations

import itertools
import resource

from cprlib.linux.descriptors import DescriptorTable, read_table


def fill_table(pid: int, left: int = 0, earlier: DescriptorTable | None = None) -> None:
    """Let a process open nothing more: its soft limit is the lowest number that is free.

    A lower one would do more than that: poll(2) refuses more entries than the limit.

    :param left: descriptors that it may open all the same.
    :param earlier: the process's table some time ago: what was opened since (procfs names sockets and pipes by their
        inodes) is to be replaced by as many when it is closed, so the limit lies above all of it. A number below that
        has become free in the meantime (a connection that its other end closed late) can be had too: no limit takes
        the one and leaves the other.
    :raises InstrumentError: the process is gone or may not be looked at.
    """
    rows = read_table(pid).rows
    used = {row.number for row in rows}
    limit = next(itertools.islice((number for number in itertools.count() if number not in used), left, None))
    if earlier is not None:
        known = {row.link for row in earlier.rows}
        since = (row.number for row in rows if row.link not in known)
        limit = max(limit, max(since, default=-1) + 1)
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
