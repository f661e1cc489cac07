"""A start-up barrier: a pipe that a QEMU reads as a file. It has no name in the file system."""

from __future__ import annotations

import contextlib
import os

from cprlib.errors import InstrumentError
from cprlib.linux.descriptors import read_table


class StartupBarrier:
    """A pipe that a QEMU reads as a file when it starts, which blocks it until :meth:`release`; a context manager.

    QEMU opens ``/proc/PID/fd/N`` of this process, so both must belong to the same user.
    """

    def __enter__(self) -> StartupBarrier:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        os.close(self._reader)

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._reader}"

    def holds(self, pid: int) -> bool:
        """Whether a process has opened the pipe, and so is blocked in reading it.

        :raises InstrumentError: the process has ended.
        """
        rows = read_table(pid).rows
        if not rows:
            raise InstrumentError(f"hold process {pid} at a start-up barrier", "it ended before")
        return os.readlink(self.path) in [row.link for row in rows]

    def release(self) -> None:
        """Unblock the reader: it finds one byte in its file."""
        if self._writer >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._writer, b"\n")
            os.close(self._writer)
            self._writer = -1
