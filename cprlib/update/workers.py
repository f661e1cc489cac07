"""vhost workers: the kernel threads that carry a vhost-net device's packets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


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
