"""An error or an interruption ends all tasks of a pool and starts no more."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from cprlib.campaign.pool import Children, Pool, Task
from cprlib.errors import EnvironmentFailure
from cprlib.process import spawn


class Endless:
    """The same task again and again."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self.started = 0
        self.threads: set[threading.Thread] = set()

    def next(self, running: int) -> Task | None:
        del running
        self.started += 1
        self.threads.add(threading.current_thread())
        return Task(self._run, lambda _: self.threads.add(threading.current_thread()))


def test_error_of_a_task_ends_the_pool() -> None:
    def no_space() -> None:
        raise EnvironmentFailure("store a result", "No space left on device")

    strategy = Endless(no_space)
    with pytest.raises(EnvironmentFailure, match="No space left"):
        Pool(strategy, 2, Children()).run()
    assert strategy.started <= 2


def test_strategy_is_called_on_the_callers_thread_alone() -> None:
    runs: list[None] = []

    def some() -> None:
        runs.append(None)
        if len(runs) == 20:
            raise EnvironmentFailure("try again", "enough")

    strategy = Endless(some)
    with pytest.raises(EnvironmentFailure, match="enough"):
        Pool(strategy, 3, Children()).run()
    assert strategy.threads == {threading.current_thread()}


def test_interruption_ends_what_runs_and_starts_nothing_more() -> None:
    children = Children()
    running: list[subprocess.Popen[str]] = []

    def slow() -> None:
        with spawn(["sleep", "60"], purpose="sleep") as child:
            running.append(child)
            children.add(child)
            os.kill(os.getpid(), signal.SIGINT)
            child.wait()

    strategy = Endless(slow)
    begun = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where this runs in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            Pool(strategy, 1, children).run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 20
    assert strategy.started == 1
    assert running[0].returncode == -9


def test_child_that_comes_after_the_stop_is_ended_too() -> None:
    children = Children()
    children.stop()
    with spawn(["sleep", "60"], purpose="sleep") as child:
        children.add(child)
        assert child.returncode == -9


def test_interruption_while_a_thread_starts_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cprlib.campaign.pool.STOP_S", 0.01)
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        Pool(Endless(lambda: None), 2, Children()).run()
