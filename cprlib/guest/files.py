"""The agent's answer with files of the guest: sysfs, procfs and the kernel's log, which the host interprets."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass

from cprlib.guest.replies import ENTRIES_LIMIT, Reply
from cprlib.words import printable

LONGEST_PATH, LONGEST_FILE = 400, 1 << 17  # images/guest/agent/files.c


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file of the guest.

    :param error: errno of a file that cannot be read; 0 without an error.
    """

    content: bytes
    error: int = 0

    @property
    def text(self) -> str:
        """The content without the space at its end; the name of the error of a file that cannot be read.

        What cannot be printed is replaced; lines are kept.
        """
        if self.error:
            return errno.errorcode.get(self.error, f"error {self.error}")
        return printable(self.content.decode("utf-8", "replace").rstrip())


def parse_files(reply: Reply) -> Mapping[str, GuestFile]:
    """The files behind an answer, by path.

    :raises InstrumentError: the answer has another layout.
    """
    found: dict[str, GuestFile] = {}
    payload, position = reply.payload, 0
    while position < len(payload):
        path, position = _line(reply, position, LONGEST_PATH)
        size, position = _line(reply, position, 8)
        if not size.removeprefix("-").isdecimal() or len(found) >= ENTRIES_LIMIT:
            raise reply.invalid("files")
        length = int(size)
        if length > min(LONGEST_FILE, len(payload) - position):
            raise reply.invalid("files")
        content = payload[position : position + max(length, 0)]
        found[path] = GuestFile(content, max(-length, 0))
        position += len(content)
    return found


def _line(reply: Reply, position: int, longest: int) -> tuple[str, int]:
    """A line of printable ASCII, and the position after it."""
    end = reply.payload.find(b"\n", position, position + longest + 1)
    line = reply.payload[position : max(end, position)]
    if not line.isascii() or not line.decode("ascii", "replace").isprintable() or not line:
        raise reply.invalid("files")
    return line.decode("ascii"), end + 1
