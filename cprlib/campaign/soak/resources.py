"""The resources of the harness that must not grow, and the processes of a soak.

Each case runs with a mark in its environment: the soak and the case's number. A process that outlives its parents keeps
the mark, so it is found, and so is the case that left it behind.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from cprlib.linux.procfs import read_text
from cprlib.process import MARK_VARIABLE

MIB = 2**20
WATCH_S = 2.0  # seconds between two samples of the children's memory
NAMESPACES = ("net", "mnt", "pid", "user", "ipc", "uts", "cgroup")


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that must not grow.

    :param limit: growth from which it counts as growing, in :attr:`unit`.
    :param lasting: it outlives the process, so all sessions are one series; else each session is one.
    :param of_cases: of all cases that run together; the limit is for one at a time.
    """

    name: str
    title: str
    unit: str
    limit: float
    lasting: bool = False
    of_cases: bool = False

    def with_workers(self, count: int) -> Resource:
        """The resource where several cases run at once: their sum scatters by the square root of their number."""
        return replace(self, limit=self.limit * math.sqrt(count)) if self.of_cases else self


RESOURCES = (
    Resource("memory", "Memory of cprlib itself (RSS)", "MiB", 16),
    Resource("children_memory", "Memory of its children (RSS, mean)", "MiB", 256, of_cases=True),
    Resource("descriptors", "Open descriptors of cprlib itself", "descriptors", 4),
    Resource("processes", "Processes left over, at rest", "processes", 1),
    Resource("namespaces", "Namespaces left over, at rest", "namespaces", 1),
    Resource("mounts", "Mounts", "mounts", 2, lasting=True),
    Resource("results", "Disk used by results, without the list of cases and kept ones", "MiB", 16, lasting=True),
    Resource("cache", "Disk used by the cache", "MiB", 64, lasting=True),
)


def mark(soak: str, number: int) -> dict[str, str]:
    """The environment that marks a case's processes.

    :param soak: name of the soak, unique on this machine.
    """
    return {MARK_VARIABLE: f"{soak}/{number}"}


def marked(soak: str, number: int | None = None) -> list[int]:
    """Processes that carry a soak's mark.

    :param number: only those of this case.
    """
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError):
            value = psutil.Process(pid).environ().get(MARK_VARIABLE, "")
            if value == f"{soak}/{number}" or (number is None and value.startswith(f"{soak}/")):
                found.append(pid)
    return found


def of_soak(soak: str) -> list[int]:
    """All processes of a soak except this one."""
    own = psutil.Process()
    return sorted({*(child.pid for child in own.children(recursive=True)), *marked(soak)} - {own.pid})


def memory_of_children() -> int:
    """Resident memory of all descendants in bytes."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            total += child.memory_info().rss
    return total


def describe(pid: int) -> str:
    """``1234 qemu-system-x86_64 -machine q35``: id and the beginning of the command line."""
    with contextlib.suppress(psutil.Error):
        return f"{pid} {' '.join(psutil.Process(pid).cmdline()).strip()[:120]}".strip()
    return str(pid)


def foreign_namespaces(pids: Iterable[int]) -> set[str]:
    """Namespaces other than this process's own, held by these processes, by our descriptors or by mounts."""
    own = _namespaces_of("self")
    found = set().union(*(_namespaces_of(str(pid)) for pid in pids))
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found |= _if_namespace(os.readlink(f"/proc/self/fd/{name}"))
    for line in _mounts():
        found |= _if_namespace(line.split()[3])  # root of the mount, proc_pid_mountinfo(5)
    return found - own


def _namespaces_of(pid: str) -> set[str]:
    found = set()
    for name in NAMESPACES:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{name}"))
    return found


def _if_namespace(link: str) -> set[str]:
    return {link} if link.partition(":")[0] in NAMESPACES else set()


def _mounts() -> list[str]:
    return read_text(Path("/proc/self/mountinfo")).splitlines()


class ChildrenWatch:
    """Samples the memory of all descendants in a thread while the body runs; a context manager."""

    def __init__(self, every_s: float = WATCH_S) -> None:
        self._every_s = every_s
        self._lock = threading.Lock()
        self._samples: list[float] = []
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
            if memory := memory_of_children() / MIB:
                with self._lock:
                    self._samples.append(memory)

    def take(self) -> float | None:
        """The mean in MiB since the last call; None when there were no children."""
        with self._lock:
            samples, self._samples = self._samples, []
        return sum(samples) / len(samples) if samples else None


def read_resources(
    results: Path, left_out: Collection[Path], cache: Path, soak: str, children_memory: float | None
) -> dict[str, float | None]:
    """All resources now; None for one that cannot be read.

    :param results: folder of the soak; :param left_out: what has its own bound in it, or grows with the cases.
    :param soak: mark of the soak's processes.
    """
    own, processes = psutil.Process(), of_soak(soak)
    return {
        "memory": round(own.memory_info().rss / MIB, 3),
        "children_memory": children_memory and round(children_memory, 3),
        "descriptors": float(own.num_fds()),
        "processes": float(len(processes)),
        "namespaces": float(len(foreign_namespaces(processes))),
        "mounts": float(len(_mounts())),
        "results": round(disk_used(results, left_out) / MIB, 3),
        "cache": round(disk_used(cache) / MIB, 3),
    }


def disk_used(folder: Path, left_out: Collection[Path] = ()) -> int:
    """Bytes of disk that a folder uses; files that vanish meanwhile or cannot be read do not count."""
    total, skipped = 0, set(map(str, left_out))
    for top, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(top, name) not in skipped]
        for path in (os.path.join(top, name) for name in (*folders, *files)):
            with contextlib.suppress(OSError):
                total += os.lstat(path).st_blocks if path not in skipped else 0
    return total * 512
