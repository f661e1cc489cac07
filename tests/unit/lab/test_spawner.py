"""The lab spawner decides once for a job what its tasks get: files of the engine, memory of a lab."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cprlib.lab import native_spawner, spawner
from cprlib.lab.engines import engine_files, engine_of_files
from cprlib.lab.kvm import KvmEngine
from cprlib.lab.native_spawner import NativeSpawner
from cprlib.lab.spawner import LabSpawner
from cprlib.lab.uml import UmlEngine

UML = UmlEngine(Path("/store/linux"), Path("/store/init"))
KVM = KvmEngine(["/store/qemu", "-L", "/store/share"], Path("/store/image"), [Path("/store/a"), Path("/store/b")])


@pytest.mark.parametrize("engine", [UML, KVM])
def test_engine_is_made_again_from_its_files(engine: UmlEngine | KvmEngine) -> None:
    made = engine_of_files(json.loads(json.dumps(engine_files(engine))))
    assert type(made) is type(engine)
    assert vars(made) == vars(engine)


def test_process_that_cannot_be_started_is_no_started_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start_runner(*_: object, **__: object) -> Any:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(native_spawner, "start_runner", start_runner)
    monkeypatch.setattr(NativeSpawner, "create_task_output_dir", lambda *_: None)
    runnable = SimpleNamespace(runner_command=lambda: ["x"])
    task = SimpleNamespace(task=SimpleNamespace(runnable=runnable, get_command_args=lambda: []))
    assert asyncio.run(NativeSpawner().spawn_task(task)) is False


def test_labs_of_a_job_have_the_same_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    specs: list[dict[str, Any]] = []
    free = [2048, 1024]  # MiB for each lab: less, when the first one runs

    async def start_runner(_task: object, *command: str, **_: object) -> Any:
        specs.append(json.loads(command[-1]))
        return SimpleNamespace(wait_task=SimpleNamespace(add_done_callback=lambda _: None))

    monkeypatch.setattr(spawner, "make_engine", lambda _: KVM)
    monkeypatch.setattr(spawner, "_compile_modules", lambda: None)
    monkeypatch.setattr(spawner, "lab_memory_mib", lambda: free.pop(0))
    monkeypatch.setattr(spawner, "start_runner", start_runner)
    monkeypatch.setattr(LabSpawner, "create_task_output_dir", lambda *_: None)
    monkeypatch.setattr(LabSpawner, "task_output_dir", lambda *_: str(tmp_path))
    labs = LabSpawner({f"{spawner.SECTION}.engine": "kvm"})
    assert labs.is_operational()
    runnable = SimpleNamespace(get_command_args=lambda: ["x"])
    task = SimpleNamespace(task=SimpleNamespace(identifier="1", job_id="j", status_services=[], runnable=runnable))
    for _ in range(2):
        asyncio.run(labs._start(task))
    assert [spec["memory"] for spec in specs] == [2048, 2048]
    assert specs[0]["files"] == engine_files(KVM)
