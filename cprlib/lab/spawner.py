"""Avocado spawner ``lab``: each task runs in a fresh kernel, Avocado and its job results stay on the host.

``avocado run --spawner=lab [--lab-engine uml] TESTS``. One lab per core runs at a time, fewer with
``--max-parallel-tasks``.
"""

from __future__ import annotations

import asyncio
import compileall
import json
import logging
import sys
from dataclasses import asdict
from typing import Any

from avocado.core.output import LOG_UI
from avocado.core.plugin_interfaces import CLI, Init
from avocado.core.settings import settings
from avocado.core.spawners.common import SpawnerMixin
from avocado.plugins.spawners.process import ProcessSpawner, ProcessSpawnerHandle

from cprlib.errors import CprlibError
from cprlib.files import import_folder, project_folder
from cprlib.lab.engine import DEFAULT_MEMORY_MIB, ENGINES
from cprlib.lab.engines import engine_files, make_engine
from cprlib.lab.native_spawner import start_runner
from cprlib.lab.schedule import lab_memory_mib, longest_first
from cprlib.lab.task import TaskSpec
from cprlib.linux.cgroup import usable_cores

LOG = logging.getLogger(__name__)
SECTION = "spawner.lab"


class LabSpawnerInit(Init):  # type: ignore[misc]
    """Registers the spawner's setting."""

    description = "Lab (disposable kernel) based spawner initialization"

    def initialize(self) -> None:
        """Called once by Avocado, in its own process."""
        settings.register_option(
            section=SECTION, key="engine", default="uml", help_msg=f"Engine of the lab: {' or '.join(ENGINES)}"
        )


class LabSpawnerCLI(CLI):  # type: ignore[misc]
    """Option of ``avocado run``."""

    name = "lab"
    description = 'lab spawner command line options for "run"'

    def configure(self, parser: Any) -> None:
        super().configure(parser)
        parser = parser.subcommands.choices.get("run", None)
        if parser is None:
            return
        group = parser.add_argument_group("lab spawner specific options")
        settings.add_argparser_to_option(
            namespace=f"{SECTION}.engine", parser=group, long_arg="--lab-engine", metavar="ENGINE"
        )

    def run(self, config: dict[str, Any]) -> None:
        """Required by Avocado."""


def _compile_modules() -> None:
    """Byte-compile modules that have changed: a lab cannot keep what it compiles, and each one would do it again."""
    if not sys.dont_write_bytecode:
        for folder in (import_folder() / "cprlib", project_folder() / "tests" / "functional"):
            compileall.compile_dir(folder, quiet=2)


class LabSpawner(ProcessSpawner):  # type: ignore[misc]
    """Starts each task in its own lab: Avocado's ``process``, whose processes run labs."""

    description = "Lab (disposable kernel) based spawner"

    def __init__(self, config: dict[str, Any] | None = None, job: Any = None) -> None:
        SpawnerMixin.__init__(self, config, job)
        self._files: dict[str, Any] = {}  # of the engine
        self._memory_mib = DEFAULT_MEMORY_MIB
        self._suites = list(getattr(job, "test_suites", ()))
        self._free_cores = asyncio.Semaphore(usable_cores())

    def is_operational(self) -> bool:
        """Whether labs can be started here; prints the reason when not."""
        try:
            name = self.config.get(f"{SECTION}.engine")
            engine = make_engine(name)  # builds missing files before the first test
            _compile_modules()
            for suite in self._suites:
                suite.tests = longest_first(suite.tests, name)
            self._files = engine_files(engine)
            # Once, before labs take memory: else each one would be smaller than the one before.
            self._memory_mib = lab_memory_mib()
        except CprlibError as error:
            LOG_UI.error(error.one_line())
            return False
        return True

    async def spawn_task(self, runtime_task: Any) -> bool:
        """Start the lab of a task when a core is free."""
        await self._free_cores.acquire()
        try:
            runtime_task.spawner_handle = await self._start(runtime_task)
        except OSError as error:
            self._free_cores.release()
            LOG.error("Could not start a lab: %s", error)
            return False
        return True

    async def _start(self, runtime_task: Any) -> ProcessSpawnerHandle:
        task = runtime_task.task
        self.create_task_output_dir(runtime_task)
        spec = TaskSpec(
            engine=self.config.get(f"{SECTION}.engine"),
            files=self._files,
            memory=self._memory_mib,
            output_dir=self.task_output_dir(runtime_task),
            identifier=str(task.identifier),
            job_id=task.job_id,
            status_uris=[service.uri for service in task.status_services],
            arguments=task.runnable.get_command_args(),
        )
        command = (sys.executable, "-m", "cprlib.lab.task", json.dumps(asdict(spec)))
        handle = await start_runner(task, *command, start_new_session=True)  # Ctrl-C is Avocado's to handle
        handle.wait_task.add_done_callback(lambda _: self._free_cores.release())
        return handle

    @staticmethod
    async def wait_task(runtime_task: Any) -> None:
        """Wait for the end of a task; to stop waiting does not count as its end."""
        await asyncio.shield(runtime_task.spawner_handle.wait_task)

    @staticmethod
    async def is_requirement_in_cache(runtime_task: Any) -> bool:  # noqa: ARG004
        """A lab stores nothing, so no requirement is in a cache."""
        return False
