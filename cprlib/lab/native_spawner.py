"""Avocado spawner ``native``: Avocado's ``process`` with supervised runners.

With Avocado's own spawner, a runner continues when Avocado is killed, and Avocado waits forever for a runner that is
killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from avocado.core.utils.eggenv import get_python_path_env_if_egg
from avocado.plugins.spawners.process import ProcessSpawner, ProcessSpawnerHandle

from cprlib.lab.task import report_lost
from cprlib.process import death_binding

LOG = logging.getLogger(__name__)


async def start_runner(task: Any, *command: str, **settings: Any) -> ProcessSpawnerHandle:
    """Start the process of a task; it dies with this one, and its task is reported when it does not end in order.

    :param task: Avocado's.
    :param settings: further ones of :func:`asyncio.create_subprocess_exec`.
    :raises OSError: it cannot be started.
    """
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *command, stdin=nothing, stdout=nothing, stderr=nothing, preexec_fn=death_binding(os.getpid()), **settings
    )
    handle = ProcessSpawnerHandle(process)
    handle.wait_task.add_done_callback(lambda _: report_lost(task, process.returncode))
    return handle


class NativeSpawner(ProcessSpawner):  # type: ignore[misc]
    """Starts each task as a process of this host."""

    description = "Process based spawner whose runners end with the job"

    async def spawn_task(self, runtime_task: Any) -> bool:
        self.create_task_output_dir(runtime_task)
        task = runtime_task.task
        command = (*task.runnable.runner_command(), "task-run", *task.get_command_args())
        try:
            runtime_task.spawner_handle = await start_runner(task, *command, env=get_python_path_env_if_egg())
        except OSError as error:
            LOG.error("Could not start a test: %s", error)
            return False
        return True
