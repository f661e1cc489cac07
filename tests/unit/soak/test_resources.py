"""Processes that a case leaves behind are found, also when their parent is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cprlib.campaign.session import Session
from cprlib.campaign.soak import jobs
from cprlib.campaign.soak.jobs import KeptFolders, SoakJobs
from cprlib.campaign.soak.resources import (
    ChildrenWatch,
    describe,
    disk_used,
    foreign_namespaces,
    mark,
    marked,
    of_soak,
    read_resources,
)
from cprlib.campaign.soak.result import CASES_FILE
from cprlib.deadline import Deadline
from tests.unit.compare.samples import ASSETS
from tests.unit.mutation.samples import POLICIES
from tests.unit.soak.samples import REQUEST

ORPHAN = "import os, sys, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(60)\nos._exit(0)\n"
SOAK = f"/soaks/{os.getpid()}"


@pytest.fixture
def orphan() -> Iterator[int]:
    """A process of case 17 that has outlived its parent."""
    subprocess.run([sys.executable, "-c", ORPHAN], check=True, env={**os.environ, **mark(SOAK, 17)})
    pid = Deadline(10, "the orphan").poll(lambda: next(iter(marked(SOAK, 17)), None))
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_orphan_is_found_by_its_mark(orphan: int) -> None:
    assert orphan not in [child.pid for child in psutil.Process().children(recursive=True)]
    assert marked(SOAK, 17) == [orphan]
    assert marked(SOAK, 1) == []
    assert marked(SOAK) == [orphan]
    assert of_soak(SOAK) == [orphan]
    assert marked(f"{SOAK}0") == []
    assert describe(orphan).startswith(f"{orphan} ")
    assert "import os, sys, time" in describe(orphan)


def test_orphan_counts_as_left_over(orphan: int, tmp_path: Path) -> None:
    del orphan

    folder = tmp_path
    (folder / "kept").mkdir()
    (folder / "kept" / "large").write_bytes(b"x" * 4 * 2**20)
    values = read_resources(folder, (folder / "kept",), folder, SOAK, 12.5)
    assert values["processes"] == 1
    assert values["results"] is not None
    assert values["results"] < 1
    assert values["cache"] is not None
    assert values["cache"] >= 4
    assert values["children_memory"] == 12.5
    for name in ("memory", "descriptors", "mounts"):
        value = values[name]
        assert value is not None
        assert value > 0


def test_list_of_cases_is_no_disk_that_must_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "cache_folder", lambda: tmp_path / "cache")
    (tmp_path / CASES_FILE).write_bytes(b"x" * 4 * 2**20)
    session = Session(tmp_path, tmp_path / ".partial", ASSETS, "uml")
    kept = KeptFolders(tmp_path, 1, 1)
    values = SoakJobs(session, REQUEST, 0, {}, POLICIES, kept, ChildrenWatch()).sample(1.0, 5).values
    assert values["results"] is not None
    assert values["results"] < 1


def test_child_and_its_child_are_of_the_soak() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as child:
        try:
            found = Deadline(10, "two processes").poll(lambda: found if len(found := of_soak(SOAK)) > 1 else None)
            assert child.pid in found
        finally:
            for pid in of_soak(SOAK):
                os.kill(pid, signal.SIGKILL)


def test_process_that_is_gone_is_no_error() -> None:
    gone = subprocess.run(["sh", "-c", "echo $$"], check=True, capture_output=True, text=True)
    pid = int(gone.stdout)
    assert describe(pid) == str(pid)
    assert foreign_namespaces([pid]) == set()


def test_descriptor_of_a_namespace_counts() -> None:
    before = foreign_namespaces([])
    child = subprocess.Popen(["unshare", "-Un", "sleep", "60"])
    try:
        own = os.readlink("/proc/self/ns/net")
        link = Deadline(10, "another namespace").poll(
            lambda: name if (name := os.readlink(f"/proc/{child.pid}/ns/net")) != own else None
        )
        assert link in foreign_namespaces([child.pid])
        descriptor = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)
    finally:
        child.kill()
        child.wait()
    assert foreign_namespaces([]) - before == {link}
    os.close(descriptor)
    assert foreign_namespaces([]) == before


def test_memory_of_children_is_watched() -> None:
    with ChildrenWatch(0.01) as watch:
        assert watch.take() is None
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                seen = Deadline(10, "the child to be seen").poll(watch.take)
            finally:
                child.kill()
        assert 0 < seen < 100


def test_disk_used_by_a_missing_folder_is_zero(tmp_path: Path) -> None:
    assert disk_used(tmp_path / "missing") == 0
