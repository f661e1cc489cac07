"""Processes of a soak: those below this one, and those that carry its mark wherever they have gone.

Each case is run with the mark of the soak and its number in its environment. A process that outlives its parents keeps
the mark, so that it is found, and tells which case has left it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from cprlib.process import MARK_VARIABLE

PAGE = os.sysconf("SC_PAGE_SIZE")
NAMESPACES = ("net", "mnt", "pid", "user", "ipc", "uts", "cgroup")


def mark(soak: str, number: int) -> dict[str, str]:
    """The environment that marks a case's processes.

    :param soak: name of the soak, unique on this machine.
    """
    return {MARK_VARIABLE: f"{soak}/{number}"}


def all_processes() -> list[int]:
    """Ids of all processes that are seen here."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    children: dict[int, list[int]] = {}
    for other in all_processes():
        with contextlib.suppress(OSError, ValueError, IndexError):
            stat = Path(f"/proc/{other}/stat").read_text(encoding="utf-8", errors="replace")
            parent = int(stat.rpartition(")")[2].split()[1])  # the name before it may hold anything
            children.setdefault(parent, []).append(other)
    found, look_at = [], [pid]
    while look_at:
        below = children.get(look_at.pop(), [])
        found += below
        look_at += below
    return found


def marked(soak: str, number: int | None = None) -> list[int]:
    """Processes that carry a soak's mark.

    :param number: only those of this case.
    """
    text = f"{MARK_VARIABLE}={soak}/{'' if number is None else number}".encode()
    return [pid for pid in all_processes() if _carries(pid, text, whole=number is not None)]


def _carries(pid: int, text: bytes, *, whole: bool) -> bool:
    with contextlib.suppress(OSError):
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return any(entry == text if whole else entry.startswith(text) for entry in entries)
    return False


def of_soak(soak: str) -> list[int]:
    """All processes of a soak but this one."""
    own = os.getpid()
    return sorted({*descendants(own), *marked(soak)} - {own})


def resident(pid: int) -> int | None:
    """Resident memory in bytes; None when the process is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE
    return None


def describe(pid: int) -> str:
    """``1234 qemu-system-x86_64 -machine q35``: id and the beginning of the command line."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return f"{pid} {' '.join(words).strip()[:120]}".strip()
    return str(pid)


def namespaces_beside(pids: Iterable[int]) -> set[str]:
    """Namespaces that these processes, descriptors of this one, or mounts hold, and that are not this process's own."""
    own = _of_process("self")
    found = set().union(*(_of_process(str(pid)) for pid in pids))
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/self/fd/{name}")
                found |= {link} if link.partition(":")[0] in NAMESPACES else set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            root = line.split()[3]
            found |= {root} if root.partition(":")[0] in NAMESPACES else set()
    return found - own


def _of_process(pid: str) -> set[str]:
    found = set()
    for name in NAMESPACES:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{name}"))
    return found
