"""What a run could leave on the host: links, mounts, sockets, locks, files, traces."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", "/run/netns")  # noqa: S108
OWN_PREFIXES = ("cprlib", ".cprlib", "avocado", ".avocado", "qemu", "vm_", "lab-", "uml")
TRACE_INSTANCES = Path("/sys/kernel/tracing/instances")


@dataclass(frozen=True, slots=True)
class HostView:
    """State of the host at one time.

    :param temporary: files in shared folders with names that this project or its tools give.
    :param private: every path in the private folders of the run (TMPDIR, HOME).
    :param locks: held locks on files in the watched folders, with their holders.
    :param sockets: unix sockets with a file in the private or the watched folders.
    """

    links: frozenset[str]
    mounts: frozenset[str]
    sockets: frozenset[str]
    locks: frozenset[str]
    temporary: frozenset[str]
    private: frozenset[str]
    traces: frozenset[str]

    def added_since(self, before: HostView) -> list[str]:
        """What was not there before, with its kind."""
        return [
            f"{field.name}: {item}"
            for field in fields(self)
            for item in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]

    def removed_since(self, before: HostView) -> list[str]:
        """Links and mounts that are gone."""
        return [
            f"{name} gone: {item}"
            for name in ("links", "mounts")
            for item in sorted(getattr(before, name) - getattr(self, name))
        ]


def view_host(private: Iterable[Path], watched: Iterable[Path]) -> HostView:
    """Read the state of the host.

    :param private: private folders of the run, which it must leave unchanged.
    :param watched: folders with lock files (cache, results).
    """
    folders, roots = list(private), list(watched)
    return HostView(
        links=frozenset(os.listdir("/sys/class/net")),
        mounts=_mounts(),
        sockets=_sockets([str(path) for path in (*folders, *roots)]),
        locks=_locks(roots),
        temporary=frozenset(f"{folder}/{name}" for folder in SHARED_FOLDERS for name in _own_names(folder)),
        private=frozenset(str(path) for folder in folders for path in folder.rglob("*")),
        traces=frozenset(_names(TRACE_INSTANCES)),
    )


def _mounts() -> frozenset[str]:
    """Mount point, root and file system of each mount; without its number, which varies."""
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    return frozenset(" ".join((*line.split()[3:5], line.partition(" - ")[2])) for line in lines)


def _sockets(folders: list[str]) -> frozenset[str]:
    """Unix sockets with a file in one of the folders; processes.py finds the others by inode."""
    words = [line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]]
    names = [line[7] for line in words if len(line) > 7]
    return frozenset(name for name in names if any(name.startswith(folder) for folder in folders))


def _locks(roots: list[Path]) -> frozenset[str]:
    inodes = {}
    for root in roots:
        for path in root.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    inodes[str(path.stat().st_ino)] = path
    held = set()
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.replace("->", "").split()
        with contextlib.suppress(IndexError, ValueError):
            pid, inode = words[4], words[5].rpartition(":")[2]
            if inode in inodes and words[1] in ("FLOCK", "POSIX", "OFDLCK"):
                held.add(f"{inodes[inode]} by {pid}")
    return frozenset(held)


def _own_names(folder: str) -> list[str]:
    return [name for name in _names(Path(folder)) if name.startswith(OWN_PREFIXES)]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
