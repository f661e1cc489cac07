"""vhost workers: the kernel threads that carry a vhost-net device's packets."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded

END_S = 2.0  # in which a worker that was told to end has gone, also on a busy machine


@dataclass(frozen=True, slots=True)
class VhostWorker:
    """One worker.

    :param task: its thread id.
    :param owner: process id of the QEMU it works for, from its name ``vhost-<pid>`` (drivers/vhost/vhost.c).
    """

    task: int
    owner: int


def _worker(task: int, comm: Path) -> VhostWorker | None:
    try:
        name = comm.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    prefix, _, owner = name.partition("-")
    return VhostWorker(task, int(owner)) if prefix == "vhost" and owner.isdigit() else None


def vhost_workers(pid: int) -> tuple[VhostWorker, ...]:
    """Workers that belong to a process.

    Since Linux 6.4 they are threads of the owner (kernel/vhost_task.c); before that, kernel threads of their own.
    """
    folder = Path(f"/proc/{pid}/task")
    tasks = [int(name) for name in os.listdir(folder)] if folder.is_dir() else []
    threads = [_worker(task, folder / str(task) / "comm") for task in tasks]
    processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    kernel_threads = [_worker(task, Path(f"/proc/{task}/comm")) for task in processes]
    found = {worker.task: worker for worker in (*threads, *kernel_threads) if worker and worker.owner == pid}
    return tuple(sorted(found.values(), key=lambda worker: worker.task))


def wait_workers_ended(pid: int, kept: int = 0) -> float:
    """Give the workers of a process that has given vhost devices up the time to end; the caller looks what is left.

    VHOST_RESET_OWNER returns when a worker does nothing any more (vhost_task_stop(), kernel/vhost_task.c); its thread
    is in /proc until it has been scheduled once more. A process that still owns a device keeps its worker for good.

    :param kept: workers of devices that it goes on owning.
    :returns: ms from the first look until no more than those were there, or the time was up.
    """
    begun = time.monotonic()
    with contextlib.suppress(DeadlineExceeded):
        Deadline(END_S, "the vhost workers to end").poll(lambda: True if len(vhost_workers(pid)) <= kept else None)
    return (time.monotonic() - begun) * 1000
