"""The descendants of a process, and the sockets and namespaces that processes hold."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_HELD = re.compile(r"^(?:socket|net|mnt|pid|ipc|uts|user|cgroup):\[\d+\]$")
POLL_S = 0.01  # a wait for any child has no time limit of its own
SOCKET_TABLES = ("unix", "tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink", "icmp", "icmp6")


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    :param zombie: it has ended and waits to be reaped.
    """

    pid: int
    parent: int
    zombie: bool
    command: str


def become_subreaper() -> None:
    """Adopt every descendant that loses its parent, so that none escapes :func:`descendants`."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[Process]:
    """All processes below one, in no order."""
    found = []
    for child in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            # as_dict() keeps a process that becomes a zombie between two reads; psutil's single reads raise
            facts = child.as_dict(["ppid", "status", "cmdline", "name"])
            command = " ".join(facts["cmdline"] or ()) or f"[{facts['name']}]"
            found.append(Process(child.pid, facts["ppid"], facts["status"] == psutil.STATUS_ZOMBIE, command))
    return found


def reap(processes: Iterable[Process], excluded: Iterable[int] = ()) -> None:
    """Reap adopted zombies, as init does.

    :param excluded: children that their own Popen waits for.
    """
    for process in processes:
        if process.parent == os.getpid() and process.zombie and process.pid not in set(excluded):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def reap_all(seconds: float) -> None:
    """Reap children as they end, until there is none or the time is over.

    A subreaper without children has no descendants. A scan of /proc can miss one whose parent ends meanwhile.
    """
    end = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(POLL_S)


def objects_of(pids: Iterable[int]) -> set[str]:
    """Sockets and namespaces that processes hold: ``socket:[123]``, ``net:[456]``."""
    found: set[str] = set()
    for pid in pids:
        for folder in (f"/proc/{pid}/ns", f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                for entry in os.scandir(folder):
                    with contextlib.suppress(OSError):
                        target = os.readlink(entry.path)
                        if _HELD.match(target):
                            found.add(target)
    return found


def objects_alive() -> set[str]:
    """Sockets and namespaces that a process holds, that are mounted, or that are in the tables of this namespace."""
    found = objects_of(int(path.name) for path in Path("/proc").glob("[0-9]*"))
    with contextlib.suppress(OSError):
        found |= set(re.findall(r"\b(?:net|mnt|pid|ipc|uts|user):\[\d+\]", Path("/proc/self/mountinfo").read_text()))
    for table in SOCKET_TABLES:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text(errors="replace").splitlines()[1:]:
                found |= {f"socket:[{word}]" for word in line.split() if word.isdigit() and len(word) > 3}
    return found
