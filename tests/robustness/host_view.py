"""What a run could leave on the host: links, mounts, sockets, locks, temporary files, traces; how two views differ."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", "/run/netns")  # noqa: S108
OUR_NAMES = ("cprlib", ".cprlib", "avocado", ".avocado", "qemu", "vm_", "lab-", "uml")
TRACE_INSTANCES = Path("/sys/kernel/tracing/instances")


@dataclass(frozen=True, slots=True)
class HostView:
    """One look at the host.

    :param temporary: names in folders that everybody uses, only those that this project or its tools would give.
    :param private: every path below the folders that the run has for itself (TMPDIR, HOME).
    :param locks: held locks on files below the watched folders, as device:inode and holder.
    :param sockets: unix sockets with a file below the private or the watched folders.
    """

    links: frozenset[str]
    mounts: frozenset[str]
    sockets: frozenset[str]
    locks: frozenset[str]
    temporary: frozenset[str]
    private: frozenset[str]
    traces: frozenset[str]

    def more_than(self, before: HostView) -> list[str]:
        """What is there now and was not before, each with its kind."""
        return [
            f"{field.name}: {item}"
            for field in fields(self)
            for item in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]

    def less_than(self, before: HostView) -> list[str]:
        """What was there before and is gone: links and mounts that somebody took away."""
        return [
            f"{name} gone: {item}"
            for name in ("links", "mounts")
            for item in sorted(getattr(before, name) - getattr(self, name))
        ]


def look(private: Iterable[Path], watched: Iterable[Path]) -> HostView:
    """Look at the host.

    :param private: folders that the run has for itself and has to leave as they are.
    :param watched: folders with lock files (the cache, the results).
    """
    places, roots = list(private), list(watched)
    return HostView(
        links=frozenset(os.listdir("/sys/class/net")),
        mounts=_mounts(),
        sockets=_sockets([str(path) for path in (*places, *roots)]),
        locks=_locks(roots),
        temporary=frozenset(f"{folder}/{name}" for folder in SHARED_FOLDERS for name in _ours(folder)),
        private=frozenset(str(path) for place in places for path in place.rglob("*")),
        traces=frozenset(_names(TRACE_INSTANCES)),
    )


def _mounts() -> frozenset[str]:
    """Mount point, root and file system of each mount; without their numbers, which others use up as well."""
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    return frozenset(" ".join((*line.split()[3:5], line.partition(" - ")[2])) for line in lines)


def _sockets(places: list[str]) -> frozenset[str]:
    """Unix sockets with a file in one of the places; those without are looked for by their inodes (processes.py)."""
    words = [line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]]
    names = [line[7] for line in words if len(line) > 7]
    return frozenset(name for name in names if any(name.startswith(place) for place in places))


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


def _ours(folder: str) -> list[str]:
    return [name for name in _names(Path(folder)) if name.startswith(OUR_NAMES)]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
