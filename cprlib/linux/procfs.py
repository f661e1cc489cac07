"""Processes as procfs shows them: children, vhost workers, status, memory, processor time and listening sockets."""

from __future__ import annotations

import contextlib
import glob
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded

WORKERS_END_S = 8.0  # time for stopped workers to leave /proc, also on a busy machine
LISTENING = 0x10000  # __SO_ACCEPTCON, the flags column of /proc/net/unix


def read_text(path: Path) -> str:
    """The text of a small file of the kernel; empty when it cannot be read: it is gone, or this kernel has none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def children_of(pid: int) -> tuple[int, ...]:
    """Child processes of the main thread of a process, zombies included; empty for a process that is gone.

    On a kernel without CONFIG_PROC_CHILDREN they are those of all its threads.
    """
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except FileNotFoundError:  # gone, or a kernel without CONFIG_PROC_CHILDREN
        return tuple(int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) == pid)
    except OSError:
        return ()
    return tuple(int(number) for number in text.split())


def _parent(name: str) -> int | None:
    fields = read_text(Path(f"/proc/{name}/stat")).rpartition(")")[2].split()
    return int(fields[1]) if fields else None  # proc_pid_stat(5), field 4


def vhost_workers(pid: int) -> tuple[int, ...]:
    """Thread ids of the vhost workers of a process, which are named ``vhost-<pid>`` (drivers/vhost/vhost.c).

    Since Linux 6.4 they are threads of the owner (kernel/vhost_task.c); before that, separate kernel threads.
    """
    files = (*glob.glob(f"/proc/{pid}/task/*/comm"), *glob.glob("/proc/[0-9]*/comm"))
    tasks = {int(file.split("/")[-2]) for file in files if read_text(Path(file)).strip() == f"vhost-{pid}"}
    return tuple(sorted(tasks))


def wait_workers_ended(pid: int, kept: int = 0) -> float:
    """Wait until stopped vhost workers have left /proc; never raises, so the caller reads the workers again.

    VHOST_RESET_OWNER returns when the worker is stopped (vhost_task_stop(), kernel/vhost_task.c); the thread stays in
    /proc until it is scheduled once more.

    :param kept: number of workers of devices that the process still owns.
    :returns: ms until no more than ``kept`` workers were left, or until the time-out.
    """
    begun = time.monotonic()
    with contextlib.suppress(DeadlineExceeded):
        deadline = Deadline(WORKERS_END_S, "the vhost workers to end")
        deadline.poll(lambda: len(vhost_workers(pid)) <= kept)
    return (time.monotonic() - begun) * 1000


def status_fields(folder: Path, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Fields of a process or thread by name (proc_pid_status(5)), with single spaces.

    :param folder: its folder in /proc.
    :raises OSError: it has ended.
    """
    for line in (folder / "status").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in names:
            yield name, " ".join(value.split())


def status_field(pid: int, name: str) -> str | None:
    """A field of /proc/PID/status; None when the process is gone or the field is missing.

    :param pid: process or thread.
    """
    with contextlib.suppress(OSError):
        return dict(status_fields(Path(f"/proc/{pid}"), (name,))).get(name)
    return None


def anonymous_memory(pid: int) -> int | None:
    """Resident anonymous memory of a process in KiB.

    Guest RAM is a shared memfd and does not count; the used part of TCG's translation buffer does.

    :returns: None when the process is gone or RssAnon is missing.
    """
    found = status_field(pid, "RssAnon")
    return int(found.split()[0]) if found else None


@dataclass(frozen=True, slots=True)
class TaskUse:
    """Processor time in ns and context switches."""

    run_ns: int
    switches: int


def task_use(pid: int) -> Mapping[int, TaskUse]:
    """What each thread of a process has used since its start, by thread id; empty for a process that is gone.

    The time is /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst), exact to the ns where stat(5)
    counts clock ticks; those serve where the kernel has no schedstat.
    """
    used = {}
    with contextlib.suppress(OSError):  # the process has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended
                status = (task / "status").read_text(encoding="utf-8", errors="replace")
                switches = sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches:" in line)
                used[int(task.name)] = TaskUse(_run_ns(task), switches)
    return used


def use_between(first: Mapping[int, TaskUse], last: Mapping[int, TaskUse]) -> TaskUse:
    """What the threads of the second reading have used since the first.

    A thread that has ended in between is left out: its use until then is not known.
    """
    nothing = TaskUse(0, 0)
    return TaskUse(
        sum(used.run_ns - first.get(task, nothing).run_ns for task, used in last.items()),
        sum(used.switches - first.get(task, nothing).switches for task, used in last.items()),
    )


def _run_ns(task: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return int((task / "schedstat").read_text().split()[0])
    fields = (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # utime, stime


def is_listening(pid: int, name: str) -> bool:
    """True when a process in the network namespace of ``pid`` listens on a unix socket.

    :param name: of an abstract socket, or a path that begins with ``/``.

    A socket that exists is not enough: between bind(2) and listen(2) it refuses connections.
    """
    shown = name if name.startswith("/") else f"@{name}"
    rows = (line.split() for line in read_text(Path(f"/proc/{pid}/net/unix")).splitlines()[1:])
    # Num RefCount Protocol Flags Type St Inode Path (net/unix/af_unix.c); connections have the listener's path
    flags = (int(row[3], 16) for row in rows if len(row) >= 8 and row[7].rstrip("@") == shown)
    return any(item & LISTENING for item in flags)
