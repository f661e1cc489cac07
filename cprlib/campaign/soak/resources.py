"""What must not grow: which resources of the harness are looked at, and reading them from procfs and the file system.

All are read at rest, while no case runs, but the children's memory, which is watched while they do.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cprlib.campaign.soak.processes import descendants, namespaces_beside, of_soak, resident

MIB = 2**20
WATCH_S = 2.0  # seconds between two looks at the children


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing that must not grow.

    :param size: growth over the time looked at that is worth an accusation, in :attr:`unit`.
    :param lasting: it outlives the process, so that its trend goes on over sessions; else each session has its own.
    """

    name: str
    title: str
    unit: str
    size: float
    lasting: bool = False


RESOURCES = (
    Resource("memory", "Memory of cprlib itself (RSS)", "MiB", 16),
    Resource("children_memory", "Memory of its children (RSS, mean)", "MiB", 256),
    Resource("descriptors", "Open descriptors of cprlib itself", "descriptors", 4),
    Resource("processes", "Processes left over, at rest", "processes", 1),
    Resource("namespaces", "Namespaces left over, at rest", "namespaces", 1),
    Resource("mounts", "Mounts", "mounts", 2, lasting=True),
    Resource("results", "Disk used by results, kept cases apart", "MiB", 16, lasting=True),
    Resource("cache", "Disk used by the cache", "MiB", 64, lasting=True),
)


class ChildrenWatch:
    """Looks at the memory of all processes below this one now and then, in a thread of its own; a context manager."""

    def __init__(self, every_s: float = WATCH_S) -> None:
        self._every_s = every_s
        self._lock = threading.Lock()
        self._seen: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="soak watch", daemon=True)

    def __enter__(self) -> ChildrenWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(self._every_s):
            memory = sum(resident(pid) or 0 for pid in descendants(os.getpid())) / MIB
            if memory:
                with self._lock:
                    self._seen.append(memory)

    def take(self) -> float | None:
        """The mean since it was last taken, in MiB; None when there were no children."""
        with self._lock:
            seen, self._seen = self._seen, []
        return sum(seen) / len(seen) if seen else None


def read_resources(
    results: Path, kept: Path, cache: Path, soak: str, children_memory: float | None
) -> dict[str, float | None]:
    """All resources now; None for one that cannot be read.

    :param results: folder of the soak; :param kept: the folder in it that has a bound of its own.
    :param soak: mark of the soak's processes.
    """
    own = resident(os.getpid())
    ours = of_soak(soak)
    return {
        "memory": _rounded(own / MIB if own is not None else None),
        "children_memory": _rounded(children_memory),
        "descriptors": _count(Path("/proc/self/fd")),
        "processes": float(len(ours)),
        "namespaces": float(len(namespaces_beside(ours))),
        "mounts": _mounts(),
        "results": _rounded(disk_used(results, leave_out=kept) / MIB),
        "cache": _rounded(disk_used(cache) / MIB),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _count(folder: Path) -> float | None:
    try:
        return float(len(os.listdir(folder)) - 1)  # without the one that lists it
    except OSError:
        return None


def _mounts() -> float | None:
    try:
        return float(len(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()))
    except OSError:
        return None


def disk_used(folder: Path, leave_out: Path | None = None) -> int:
    """Bytes of disk that a folder takes; what vanishes meanwhile, or cannot be read, does not count."""
    return sum(_blocks(folder, leave_out)) * 512


def _blocks(folder: Path | str, leave_out: Path | None) -> Iterator[int]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if leave_out is not None and entry.path == str(leave_out):
                    continue
                yield entry.stat(follow_symlinks=False).st_blocks
                if entry.is_dir(follow_symlinks=False):
                    yield from _blocks(entry.path, leave_out)
