"""An initramfs in memory (cpio format "newc"), and kernel modules with their dependencies to put into it.

No root is needed, and equal inputs give equal bytes.
Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import lzma
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.errors import BuildFailed

BLOCK = 512  # the archive is padded to a multiple of this many bytes
TRAILER = "TRAILER!!!"


@dataclass(slots=True)
class CpioArchive:
    """An archive; add folders before their files. Owner is root, time 0."""

    _parts: list[bytes] = field(default_factory=list)
    _count: int = 0

    def folder(self, name: str) -> None:
        self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add an ordinary file."""
        self._add(name, stat.S_IFREG | mode, content)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._add(name, stat.S_IFCHR | mode, device=(major, minor))

    def console_devices(self) -> None:
        """Add the devices that a first process needs."""
        self.character_device("dev/console", 5, 1)
        self.character_device("dev/null", 1, 3, 0o666)

    def data(self) -> bytes:
        """The archive with trailer and padding."""
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


@dataclass(frozen=True, slots=True)
class KernelModule:
    """An uncompressed kernel module and the names of modules that it needs."""

    name: str
    content: bytes
    depends: tuple[str, ...]


def read_modules(root: Path, names: Sequence[str]) -> tuple[KernelModule, ...]:
    """Modules and their dependencies, dependencies first.

    :raises BuildFailed: a module is missing below ``root``.
    """
    found: dict[str, KernelModule] = {}

    def read(name: str) -> None:
        if name in found:
            return
        path = next((path for path in root.rglob("*.ko*") if path.name.split(".")[0].replace("-", "_") == name), None)
        if path is None:
            raise BuildFailed(f"find kernel module {name}", "the kernel package does not have it")
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        depends = module_depends(content)
        for dependency in depends:
            read(dependency)
        found[name] = KernelModule(name, content, depends)

    for name in names:
        read(name)
    return tuple(found.values())


def module_depends(content: bytes) -> tuple[str, ...]:
    """Names of modules that a module needs, from its section .modinfo."""
    match = re.search(rb"\0depends=([\w,-]*)\0", content)
    text = match.group(1).decode() if match else ""
    return tuple(name.replace("-", "_") for name in text.split(",") if name)


def modules_dep(modules: Iterable[KernelModule]) -> str:
    """The content of modules.dep for modprobe: each module with all its dependencies, nearest first."""
    known = {module.name: module for module in modules}

    def needed(name: str) -> list[str]:
        direct = list(known[name].depends)
        return direct + [far for near in direct for far in needed(near) if far not in direct]

    lines = [f"{name}.ko:" + "".join(f" {other}.ko" for other in needed(name)) for name in known]
    return "\n".join(lines) + "\n"
