"""The engine under prove, soak and compare: worker threads that run the tasks of a strategy until it has no more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import Popen
from typing import Any, Protocol

from cprlib.process import kill_group

STOP_S = 5.0  # time for a worker to notice that its job was ended


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work: a build, a job, a sample of the harness.

    :param run: called on a worker's thread, beside other tasks.
    :param done: called with its result, one call at a time and never beside :meth:`Strategy.next`.
    """

    run: Callable[[], Any]
    done: Callable[[Any], None]


class Strategy(Protocol):
    """Which tasks there are and in which order."""

    def next(self, running: int) -> Task | None:
        """The next task; None when nothing can start before a running task has ended.

        The pool ends when this is None and nothing runs.

        :param running: tasks that run now.
        """


class Children:
    """Processes that must not outlive an interruption."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[Popen[str]] = []
        self.stopped = False

    def add(self, child: Popen[str]) -> None:
        """Remember a process; after :meth:`stop` it is killed at once."""
        with self._lock:
            self._running = [known for known in self._running if known.returncode is None]
            self._running.append(child)
            stopped = self.stopped
        if stopped:
            kill_group(child)

    def stop(self) -> None:
        """Kill all; labs and QEMUs die with the process that holds them."""
        with self._lock:
            self.stopped = True
            running = [child for child in self._running if child.returncode is None]
        for child in running:
            kill_group(child)


class Pool:
    """Runs the tasks of a strategy.

    :param workers: tasks at once.
    :param children: processes of the tasks, killed when a task fails or the caller is interrupted.
    """

    def __init__(self, strategy: Strategy, workers: int, children: Children) -> None:
        self._strategy = strategy
        self._workers = workers
        self._children = children
        self._changed = threading.Condition()
        self._running = 0
        self._alive = workers
        self._ended = threading.Event()
        self._failed: BaseException | None = None

    def run(self) -> None:
        """Run all tasks.

        :raises BaseException: the first error of a task, or what interrupted the caller.
        """
        threads = [
            threading.Thread(target=self._thread, name=f"worker {number}", daemon=True)
            for number in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        try:
            self._ended.wait()
        except BaseException:
            self._stop()
            for thread in threads:
                thread.join(STOP_S)  # a thread that builds is left behind: its processes die with this one
            raise
        if self._failed is not None:
            raise self._failed

    def _thread(self) -> None:
        try:
            while (task := self._next()) is not None:
                self._run(task)
        except BaseException as error:  # raised again by the waiting thread
            with self._changed:
                self._failed = self._failed or error
            self._stop()
        finally:
            with self._changed:
                self._alive -= 1
                if self._alive == 0:
                    self._ended.set()

    def _next(self) -> Task | None:
        with self._changed:
            while not self._children.stopped:
                task = self._strategy.next(self._running)
                if task is not None:
                    self._running += 1
                    return task
                if not self._running:
                    self._changed.notify_all()
                    return None
                self._changed.wait()
        return None

    def _run(self, task: Task) -> None:
        try:
            result = task.run()
        except BaseException:
            with self._changed:
                self._running -= 1
            raise
        with self._changed:
            self._running -= 1
            task.done(result)
            self._changed.notify_all()

    def _stop(self) -> None:
        self._children.stop()
        with self._changed:
            self._changed.notify_all()


def worker_count(parallel: int | None, engine: str | None) -> int:
    """Jobs at once: as asked for; else one per core in the lab, one natively."""
    return parallel or (len(os.sched_getaffinity(0)) if engine else 1)
