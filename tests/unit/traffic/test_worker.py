"""Requests to a worker process."""

from __future__ import annotations

import pytest

from cprlib.errors import InstrumentError
from cprlib.traffic.worker import WorkerProcess

MODULE = "tests.unit.traffic.slow_worker"


def test_late_answer_is_not_taken_for_the_next_one() -> None:
    with WorkerProcess(MODULE, "the worker") as worker:
        with pytest.raises(InstrumentError, match=r"no answer after 0\.1 s"):
            worker.request(str, "text_after", 0.5, seconds=0.1)
        assert worker.request(int, "number") == 7


def test_dead_worker_is_an_error() -> None:
    with WorkerProcess(MODULE, "the worker") as worker, pytest.raises(InstrumentError, match="its process is gone"):
        worker.request(type(None), "die")
