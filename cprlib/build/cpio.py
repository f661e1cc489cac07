"""An initramfs in cpio's "newc" form, made in memory: no root, no device nodes on disk, the same bytes every time.

Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

BLOCK = 512  # the archive is padded to a multiple of this many bytes
TRAILER = "TRAILER!!!"


@dataclass(slots=True)
class CpioArchive:
    """Files are added in order, folders before what is in them; owner root, time 0."""

    _parts: list[bytes] = field(default_factory=list)
    _count: int = 0

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder."""
        self._add(name, stat.S_IFDIR | mode)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add an ordinary file."""
        self._add(name, stat.S_IFREG | mode, content)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._add(name, stat.S_IFCHR | mode, device=(major, minor))

    def data(self) -> bytes:
        """The whole archive so far, ended and padded."""
        whole = b"".join([*self._parts, _entry(0, TRAILER, 0, b"", (0, 0))])
        return whole + b"\0" * (-len(whole) % BLOCK)

    def _add(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        self._parts.append(_entry(self._count, name, mode, content, device))


def _entry(inode: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    links = 2 if stat.S_ISDIR(mode) else 1
    path = name.encode() + b"\0"
    numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
