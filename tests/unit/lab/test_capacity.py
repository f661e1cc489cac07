"""Tests at once and memory of their labs follow the processors and memory of a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cprlib.build.progress import Progress
from cprlib.campaign.mutation.plan import STORE
from cprlib.campaign.session import open_session
from cprlib.lab.avocado_run import SuiteRun
from cprlib.lab.engine import DEFAULT_MEMORY_MIB
from cprlib.lab.schedule import TEST_MIB, lab_memory_mib, parallel_tests
from tests.unit.compare.samples import ASSETS

MIB = 1 << 20


def container(tmp_path: Path, cpu: str = "max 100000", memory_mib: int = 65536) -> Path:
    files = {
        "proc/self/cgroup": "0::/\n",
        "proc/meminfo": "MemAvailable: 67108864 kB\n",
        "sys/fs/cgroup/cpu.max": f"{cpu}\n",
        "sys/fs/cgroup/memory.max": f"{memory_mib * MIB}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def test_labs_follow_cpu_max(tmp_path: Path) -> None:
    assert parallel_tests("uml", container(tmp_path)) == 8
    assert parallel_tests("uml", container(tmp_path, "200000 100000")) == 2


def test_labs_follow_memory_max(tmp_path: Path) -> None:
    place = container(tmp_path, memory_mib=3 * TEST_MIB + 100)
    assert parallel_tests("uml", place) == 3
    assert parallel_tests("uml", container(tmp_path, memory_mib=100)) == 1


def test_native_runs_one() -> None:
    assert parallel_tests(None) == 1


def test_memory_of_a_lab_follows_memory_max(tmp_path: Path) -> None:
    assert lab_memory_mib(container(tmp_path)) == DEFAULT_MEMORY_MIB
    assert lab_memory_mib(container(tmp_path, "200000 100000", 4096)) == 2048
    assert lab_memory_mib(container(tmp_path, "200000 100000", 512)) == TEST_MIB


def test_avocado_and_campaigns_ask_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cprlib.lab.avocado_run.parallel_tests", lambda engine: 5)  # noqa: ARG005
    monkeypatch.setattr("cprlib.campaign.session.parallel_tests", lambda engine: 6)  # noqa: ARG005
    monkeypatch.setattr("cprlib.campaign.session.build_assets", lambda *_, **__: ASSETS)
    command = SuiteRun(tmp_path, ["test"], {}, engine="uml").command(tmp_path)
    assert command[command.index("--max-parallel-tasks") + 1] == "5"
    for asked, workers in ((None, 6), (3, 3)):
        with open_session(STORE, tmp_path, "uml", asked, Progress()) as session:
            assert session.workers == workers
