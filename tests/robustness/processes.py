"""The processes of a run, also those that lost their parent, and what of the kernel they hold."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_HELD = re.compile(r"^(?:socket|net|mnt|pid|ipc|uts|user|cgroup):\[\d+\]$")
SOCKET_TABLES = ("unix", "tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink", "icmp", "icmp6")


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    :param state: as in proc(5), ``Z`` for one that waits to be reaped.
    """

    pid: int
    parent: int
    state: str
    command: str


def become_subreaper() -> None:
    """From now on every descendant that loses its parent becomes this process's child, so that none can hide."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def all_processes() -> dict[int, Process]:
    """Every process of the machine, by number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            words = stat.rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            name = stat.partition("(")[2].rpartition(")")[0]
            found[int(folder.name)] = Process(int(folder.name), int(words[1]), words[0], command or f"[{name}]")
    return found


def descendants(root: int, left_out: Iterable[int] = ()) -> list[Process]:
    """All processes below one, in no order.

    :param left_out: children that were there before.
    """
    processes = all_processes()
    below: dict[int, list[int]] = {}
    for process in processes.values():
        below.setdefault(process.parent, []).append(process.pid)
    without = set(left_out)
    found, todo = [], [pid for pid in below.get(root, []) if pid not in without]
    while todo:
        pid = todo.pop()
        found.append(processes[pid])
        todo += below.get(pid, [])
    return found


def reap(processes: Iterable[Process], but: Iterable[int] = ()) -> None:
    """Take note of the end of those children that were somebody else's, as init does.

    :param but: children that their own Popen waits for.
    """
    without = set(but)
    for process in processes:
        if process.parent == os.getpid() and process.state == "Z" and process.pid not in without:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


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
    """Sockets and namespaces that anybody holds, that are mounted, or that this network namespace's tables list."""
    found = objects_of(int(path.name) for path in Path("/proc").glob("[0-9]*"))
    with contextlib.suppress(OSError):
        found |= set(re.findall(r"\b(?:net|mnt|pid|ipc|uts|user):\[\d+\]", Path("/proc/self/mountinfo").read_text()))
    for table in SOCKET_TABLES:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text(errors="replace").splitlines()[1:]:
                found |= {f"socket:[{word}]" for word in line.split() if word.isdigit() and len(word) > 3}
    return found
