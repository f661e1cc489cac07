"""Avocado spawner ``native``: Avocado's ``process`` with supervised runners.

With Avocado's own spawner, a runner continues when Avocado is killed, and Avocado waits forever for a runner that is
killed.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from avocado.core.utils.eggenv import get_python_path_env_if_egg
from avocado.plugins.spawners.process import ProcessSpawner, ProcessSpawnerHandle

from cprlib.lab.task import report_lost
from cprlib.process import death_binding


class NativeSpawner(ProcessSpawner):  # type: ignore[misc]
    """Starts each task as a process of this host."""

    description = "Process based spawner whose runners end with the job"

    async def spawn_task(self, runtime_task: Any) -> bool:
        self.create_task_output_dir(runtime_task)
        task = runtime_task.task
        runner = task.runnable.runner_command()
        try:
            process = await asyncio.create_subprocess_exec(
                *runner,
                "task-run",
                *task.get_command_args(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=get_python_path_env_if_egg(),
                preexec_fn=death_binding(os.getpid()),
            )
        except (FileNotFoundError, PermissionError):
            return False
        handle = ProcessSpawnerHandle(process)
        handle.wait_task.add_done_callback(lambda _: report_lost(task, process.returncode))
        runtime_task.spawner_handle = handle
        return True
