"""Builds that run at once: while one unpacks, configures or links on one core, another compiles on the rest."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cprlib.build.expected import Expected
from cprlib.build.progress import Progress, Say
from cprlib.deadline import Deadline

STOP_S = 10.0  # for the threads of stopped builds to leave their folders in order
LOOK_AGAIN_S = 0.1


class _Stopped(BaseException):
    """Another build failed, or the caller was interrupted."""


class _Stoppable(Progress):
    """Shows progress until it is stopped; then no further step begins."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self.stopped = False

    @contextlib.contextmanager
    def step(self, what: str, work: float = 0.0) -> Iterator[Say]:
        self.raise_if_stopped()
        with self._shown.step(what, work) as say:
            yield say

    def note(self, text: str) -> None:
        self.raise_if_stopped()
        self._shown.note(text)

    def expect(self, expected: Expected | None) -> None:
        self._shown.expect(expected)

    def raise_if_stopped(self) -> None:
        if self.stopped:
            raise _Stopped


def run_together(
    progress: Progress, tasks: Mapping[str, Callable[[Progress], Any]], *, unkilled: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run tasks at once, each on a thread of its own.

    :param tasks: by name; each takes the progress to show its steps on.
    :param unkilled: names of tasks whose program must not be killed, with the name of that program; it is waited for.
    :returns: the result of each.
    :raises BaseException: the first error of a task, or what interrupted the caller; the others are stopped.
    """
    stoppable = _Stoppable(progress)
    ended: queue.SimpleQueue[tuple[str, Any, BaseException | None]] = queue.SimpleQueue()

    def work(name: str, task: Callable[[Progress], Any]) -> None:
        try:
            ended.put((name, task(stoppable), None))
        except BaseException as error:  # raised again by the waiting thread
            ended.put((name, None, error))

    threads = [threading.Thread(target=work, args=item, name=item[0], daemon=True) for item in tasks.items()]
    results: dict[str, Any] = {}
    try:
        for thread in threads:
            thread.start()
        while len(results) < len(tasks):
            name, result, error = ended.get()
            if error is not None:
                raise error
            results[name] = result
    except BaseException:
        stoppable.stopped = True
        _stop([thread for thread in threads if thread.name not in (unkilled or {})])
        for thread in threads:
            if thread.is_alive() and (program := (unkilled or {}).get(thread.name)):
                progress.note(f"waiting for {program}, which must not be killed; another Ctrl-C leaves it running")
                thread.join()
        raise
    return results


def _stop(threads: list[threading.Thread]) -> None:
    """Kill what the threads run, and let them clean up; processes of one that stays die with this process."""
    deadline = Deadline(STOP_S, "builds to stop")
    while alive := [thread for thread in threads if thread.is_alive() and not deadline.expired]:
        for thread in alive:
            _kill_children(thread.native_id or 0)
        alive[0].join(LOOK_AGAIN_S)  # a thread may be about to start a process


def _kill_children(thread: int) -> None:
    """Kill the process groups of the children of a thread (proc(5), /proc/PID/task/TID/children)."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/self/task/{thread}/children").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(child), signal.SIGKILL)
