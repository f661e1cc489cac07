"""Limits of control groups, from simulated files: containers of both versions, outer groups, no limit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from cprlib.linux.cgroup import cpu_limit, memory_limit_mib, usable_cores, usable_jobs, usable_memory_mib

MIB = 1 << 20
HOST = {"proc/meminfo": "MemTotal: 32768000 kB\nMemAvailable: 16777216 kB\n", "proc/self/cgroup": "0::/\n"}


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def root(tmp_path: Path, files: Mapping[str, str]) -> Path:
    for name, text in {**HOST, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_host_without_groups_has_all(tmp_path: Path) -> None:
    place = root(tmp_path, {})
    assert (usable_cores(place), usable_memory_mib(place), cpu_limit(place), memory_limit_mib(place)) == (
        8,
        16384,
        None,
        None,
    )


@pytest.mark.parametrize(("mib", "jobs"), [(16384, 8), (1100, 2), (300, 1)])
def test_compilers_fit_into_the_memory(tmp_path: Path, mib: int, jobs: int) -> None:
    assert usable_jobs(root(tmp_path, {"sys/fs/cgroup/memory.max": f"{mib * MIB}\n"})) == jobs


QUOTAS = [("max 100000", 8), ("150000 100000", 1), ("50000 100000", 1), ("400000 100000", 4)]


@pytest.mark.parametrize(("quota", "cores"), QUOTAS)
def test_cores_follow_cpu_max(tmp_path: Path, quota: str, cores: int) -> None:
    assert usable_cores(root(tmp_path, {"sys/fs/cgroup/cpu.max": quota + "\n"})) == cores


def test_memory_follows_memory_max_without_cached_files(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory.max": f"{2048 * MIB}\n",
        "sys/fs/cgroup/memory.current": f"{1536 * MIB}\n",
        "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {1024 * MIB}\n",
    }
    place = root(tmp_path, files)
    assert usable_memory_mib(place) == 1536
    assert memory_limit_mib(place) == 2048


def test_outer_group_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/machine.slice/box/inner\n",
        "sys/fs/cgroup/machine.slice/box/cpu.max": "200000 100000\n",
        "sys/fs/cgroup/machine.slice/box/inner/cpu.max": "max 100000\n",
    }
    assert usable_cores(root(tmp_path, files)) == 2


def test_container_that_sees_another_path_has_the_top_of_its_mount(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../../docker/0a1b\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}
    assert usable_cores(root(tmp_path, files)) == 3


def test_version_1_has_limits_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{1024 * MIB}\n",
        "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": f"{256 * MIB}\n",
    }
    place = root(tmp_path, files)
    assert (usable_cores(place), usable_memory_mib(place)) == (2, 768)


def test_version_1_without_limit(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cores(root(tmp_path, files)) == 8


def test_real_host_has_something() -> None:
    assert usable_cores() >= 1
    assert usable_memory_mib() > 0
