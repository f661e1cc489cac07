"""Threads that run tests, and the processes they hold: all end when one of them fails or the caller is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from subprocess import Popen

from cprlib.process import kill_group

STOP_S = 5.0  # time for a worker to notice that its test was ended


class Children:
    """Processes that must not outlive an interruption."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[Popen[str]] = []
        self.stopped = False

    def add(self, child: Popen[str]) -> None:
        """Remember a process; one that comes too late is ended at once."""
        with self._lock:
            self._running = [known for known in self._running if known.returncode is None]
            self._running.append(child)
            stopped = self.stopped
        if stopped:
            kill_group(child)

    def stop(self) -> None:
        """End all; labs and QEMUs go with the process that holds them."""
        with self._lock:
            self.stopped = True
            running = [child for child in self._running if child.returncode is None]
        for child in running:
            kill_group(child)


class Workers:
    """Threads with one body each.

    :param count: of threads.
    :param body: of each thread; ends when there is nothing more to do.
    :param stop: makes all bodies end; called once when one has raised something, or the caller was interrupted.
    """

    def __init__(self, count: int, body: Callable[[], None], stop: Callable[[], None], name: str) -> None:
        self._body = body
        self._stop = stop
        self._failed: BaseException | None = None
        self._lock = threading.Lock()
        self._alive = count
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name} {number}", daemon=True) for number in range(count)
        ]

    def run(self) -> None:
        """Run all to their ends.

        :raises BaseException: what a body raised first, or what interrupted the caller.
        """
        for thread in self._threads:
            thread.start()
        try:
            self._ended.wait()
        except BaseException:
            self._stop()
            for thread in self._threads:
                thread.join(STOP_S)  # one that builds is left: what it started dies with this process
            raise
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            self._body()
        except BaseException as error:  # handed to the thread that waits
            with self._lock:
                self._failed = self._failed or error
            self._stop()
        finally:
            with self._lock:
                self._alive -= 1
                if self._alive == 0:
                    self._ended.set()
