"""Processors and memory that this process may really use: its CPU mask, and the limits of its control groups.

A container has all processors of the host in its mask, and the host's memory in /proc/meminfo, though its control group
gives it less. A limit of an outer group counts too. Standard library only: builds use it too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cprlib.linux.procfs import read_text

MIB = 1 << 20
COMPILER_MIB = 512  # for one gcc, linkers included
UNLIMITED = 1 << 60  # control groups of version 1 write a number near 2**63 for no limit
MOUNT = "sys/fs/cgroup"


def usable_cores(root: Path = Path("/")) -> int:
    """Number of processors, at least 1: those of the CPU mask, or as many as the quota of a control group pays for.

    :param root: root of the file system; another one for tests.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *(int(share) for share in _cpu_shares(root))]))


def usable_jobs(root: Path = Path("/")) -> int:
    """Number of compilers that can run at once, at least 1: one for each processor, as far as there is memory for them.

    :param root: root of the file system; another one for tests.
    """
    return max(1, min(usable_cores(root), usable_memory_mib(root) // COMPILER_MIB))


def usable_memory_mib(root: Path = Path("/")) -> int:
    """MiB that can be taken without swapping, or before the kernel kills: MemAvailable, less where a group has less."""
    return max(0, min([_available(root), *_free_in_groups(root)])) // MIB


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Processors that the tightest quota pays for; None without a quota."""
    return min(_cpu_shares(root), default=None)


def memory_limit_mib(root: Path = Path("/")) -> int | None:
    """The tightest limit of memory in MiB; None without one."""
    return min((limit // MIB for limit, _ in _memory_limits(root)), default=None)


def _cpu_shares(root: Path) -> Iterator[float]:
    """Processors that each group's quota pays for (cgroup-v2.rst, cpu.max; sched-bwc.rst, cpu.cfs_quota_us)."""
    for folder in _groups(root, "cpu"):
        words = _words(folder / "cpu.max")
        words = words or [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        with contextlib.suppress(ValueError, ZeroDivisionError):
            quota, period = (int(word) for word in words)
            if quota > 0:
                yield quota / period


def _free_in_groups(root: Path) -> Iterator[int]:
    """Bytes that each group with a limit may still take; its cached files can be dropped."""
    for limit, folder in _memory_limits(root):
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        fields = dict(line.split() for line in _lines(folder / "memory.stat") if len(line.split()) == 2)
        cached = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
        yield limit - max(0, used - cached)


def _memory_limits(root: Path) -> Iterator[tuple[int, Path]]:
    for folder in _groups(root, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if limit is not None and limit < UNLIMITED:
            yield limit, folder


def _available(root: Path) -> int:
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's group and of the groups around it, as far as they are visible (cgroups(7))."""
    for line in _lines(root / "proc/self/cgroup"):
        number, names, path = line.split(":", 2)
        if number == "0":
            tops = [root / MOUNT, root / MOUNT / "unified"]
        elif controller in names.split(","):
            tops = [root / MOUNT / names, root / MOUNT / controller]
        else:
            continue
        top = next((folder for folder in tops if folder.is_dir()), None)
        if top is None:
            continue
        folder = top / path.strip("/")
        # A container sees its own group as the top of the mount, and maybe a path that does not exist in it.
        folder = folder if ".." not in folder.parts and folder.is_dir() else top
        yield folder
        yield from (outer for outer in folder.parents if outer == top or outer.is_relative_to(top))


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    return read_text(path).splitlines()
