"""The engine of prove, soak, compare and scoreboard: runs the tasks of a strategy, each on a thread.

The strategy itself is called on the caller's thread alone, so it needs no locks.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cprlib.process import Child, kill_group

STOP_S = 5.0  # time for a worker to notice that its job was ended


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work: a build, a job, a sample of the harness.

    :param run: called on a thread of its own, beside other tasks.
    :param done: called with its result, on the pool's thread.
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
        self._running: list[Child] = []
        self.stopped = False

    def add(self, child: Child) -> None:
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
        self._running = 0
        self._ended: queue.SimpleQueue[tuple[Task, Any, BaseException | None]] = queue.SimpleQueue()

    def run(self) -> None:
        """Run all tasks.

        :raises BaseException: the first error of a task, or what interrupted the caller.
        """
        try:
            while self._start_tasks():
                task, result, error = self._ended.get()
                self._running -= 1
                if error is not None:
                    raise error
                task.done(result)
        except BaseException:
            self._children.stop()
            # Not Thread.join(), which fails when start() was interrupted. A thread that builds is left behind: its
            # processes die with this one.
            with contextlib.suppress(queue.Empty):
                for _ in range(self._running):
                    self._ended.get(timeout=STOP_S)
            raise

    def _start_tasks(self) -> bool:
        """Start what can start now; False when nothing runs any more."""
        while self._running < self._workers and (task := self._strategy.next(self._running)):
            self._running += 1
            threading.Thread(target=self._work, args=(task,), daemon=True).start()
        return self._running > 0

    def _work(self, task: Task) -> None:
        result, failed = None, None
        try:
            result = task.run()
        except BaseException as error:  # raised again by the waiting thread
            failed = error
        self._ended.put((task, result, failed))
