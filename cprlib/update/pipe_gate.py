"""A gate in the way of a QEMU that starts: it reads a file of ours, and stands still until we let it go on.

It has no name in the file system, so a killed harness leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from cprlib.errors import InstrumentError


class PipeGate:
    """A pipe that a QEMU reads as a file, as a context manager; it stands still until :meth:`release`.

    QEMU opens ``/proc/PID/fd/N`` of this process, so source and target have to belong to the same user as it does.
    """

    def __enter__(self) -> PipeGate:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
        os.close(self._reader)

    @property
    def path(self) -> str:
        """What QEMU shall read."""
        return f"/proc/{os.getpid()}/fd/{self._reader}"

    def holds(self, pid: int) -> bool:
        """Whether a process has opened the pipe, which it can only read then.

        :raises InstrumentError: the process is gone.
        """
        links = list(_links(pid))
        if not links:
            raise InstrumentError(f"bring process {pid} to a gate", "it ended before it came there")
        return os.readlink(self.path) in links

    def release(self) -> None:
        """Let the reader go on: it finds one byte in its file."""
        if self._writer >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._writer, b"\n")
            os.close(self._writer)
            self._writer = -1


def _links(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(entry)
