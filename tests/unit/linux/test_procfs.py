"""vhost workers by their names in /proc, and those that take a moment to end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cprlib.linux import procfs as workers
from cprlib.linux.procfs import is_listening, read_text, task_use, use_between, vhost_workers, wait_workers_ended

PR_SET_NAME = 15


@pytest.fixture
def worker() -> Iterator[threading.Event]:
    """A thread of this process that is named as a vhost worker of it; it ends when the event is set."""
    named, end = threading.Event(), threading.Event()

    def run() -> None:
        ctypes.CDLL(None).prctl(PR_SET_NAME, f"vhost-{os.getpid()}".encode(), 0, 0, 0)
        named.set()
        end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    named.wait()
    yield end
    end.set()
    thread.join()


def test_a_worker_is_known_by_its_name(worker: threading.Event) -> None:
    (found,) = vhost_workers(os.getpid())
    assert read_text(Path(f"/proc/{found}/comm")).strip() == f"vhost-{os.getpid()}"
    worker.set()


def test_a_worker_that_ends_late_does_not_remain(worker: threading.Event) -> None:
    threading.Timer(0.1, worker.set).start()
    waited_ms = wait_workers_ended(os.getpid())
    assert vhost_workers(os.getpid()) == ()
    assert waited_ms >= 50


def test_a_worker_that_does_not_end_remains(worker: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORKERS_END_S", 0.1)
    assert wait_workers_ended(os.getpid()) >= 100
    assert len(vhost_workers(os.getpid())) == 1
    wait_workers_ended(os.getpid(), kept=1)
    assert len(vhost_workers(os.getpid())) == 1
    worker.set()


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@contextlib.contextmanager
def burning_thread(seconds: float) -> Iterator[None]:
    """The body runs when another thread has used so much processor time; the thread ends after the body."""
    burnt, end = threading.Event(), threading.Event()

    def run() -> None:
        burn(seconds)
        burnt.set()
        end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    burnt.wait()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_a_thread_that_ends_takes_nothing_from_the_use_of_the_others() -> None:
    with burning_thread(0.3):
        before = task_use(os.getpid())
        assert sum(item.run_ns for item in before.values()) >= 300_000_000
    burn(0.05)
    used = use_between(before, task_use(os.getpid()))
    assert 50_000_000 <= used.run_ns < 200_000_000
    assert used.switches >= 0


def test_a_thread_that_begins_counts_as_a_whole() -> None:
    before = task_use(os.getpid())
    with burning_thread(0.1):
        used = use_between(before, task_use(os.getpid()))
    assert used.run_ns >= 100_000_000


def test_a_process_that_is_gone_uses_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert task_use(process.pid) == {}


def test_a_process_that_ends_meanwhile_has_no_vhost_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    monkeypatch.setattr("pathlib.Path.is_dir", lambda _: True)  # it was there a moment ago
    assert vhost_workers(process.pid) == ()


def test_a_socket_listens_while_it_has_yank_instances() -> None:
    name = f"cprlib-test-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"\0{name}")
        assert not is_listening(os.getpid(), name)
        listener.listen(8)
        for _ in range(8):
            assert is_listening(os.getpid(), name)
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(f"\0{name}")
            stack.enter_context(listener.accept()[0])
        assert is_listening(os.getpid(), name)
    assert not is_listening(os.getpid(), name)
