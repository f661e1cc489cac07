"""Cases run on all workers, each once; the harness is sampled only while nothing runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from cprlib.campaign.pool import Children, Pool
from cprlib.campaign.progress import ProgressLines
from cprlib.campaign.soak.jobs import SoakJobs
from cprlib.campaign.soak.result import ResourceSample, SoakCase, SoakHistory
from cprlib.campaign.soak.run import Recorder, SoakStrategy
from tests.unit.soak.samples import case, result


class FakeWork:
    """Cases that take a moment, and a sample of the harness that notices a case that runs.

    :param together: how many cases wait for one another before they end.
    """

    def __init__(self, together: int = 1) -> None:
        self.ran: list[int] = []
        self.samples: list[ResourceSample] = []
        self.running = 0
        self.disturbed = False
        self.lock = threading.Lock()
        self.together = threading.Barrier(together, timeout=30)

    def run(self, number: int) -> SoakCase | None:
        with self.lock:
            self.running += 1
            self.ran.append(number)
        self.together.wait()
        time.sleep(0.004)
        with self.lock:
            self.running -= 1
        return case(number)

    def sample(self, at_s: float, cases: int) -> ResourceSample:
        self.disturbed |= self.running > 0
        time.sleep(0.002)
        self.disturbed |= self.running > 0
        self.samples.append(ResourceSample(0, at_s, cases, {}))
        return self.samples[-1]


def run(
    folder: Path,
    work: FakeWork,
    workers: int,
    seconds: float,
    interval_s: float,
    before_s: float = 0.0,
    numbers: Iterable[int] = range(1, 101),
) -> SoakHistory:
    """The history of a session with this work."""
    recorder = Recorder(result(folder, history=SoakHistory(), state="running"), seconds, ProgressLines(lambda _: None))
    jobs: SoakJobs = work  # type: ignore[assignment]
    strategy = SoakStrategy(iter(numbers), jobs, recorder, seconds, interval_s, before_s)
    Pool(strategy, workers, Children()).run()
    return recorder.close("interrupted").history


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_case_runs_once_and_no_case_runs_during_a_sample(workers: int, tmp_path: Path) -> None:
    work = FakeWork()
    history = run(tmp_path, work, workers, seconds=60, interval_s=0.01)
    assert sorted(work.ran) == list(range(1, 101))
    assert sorted(item.number for item in history.cases) == sorted(work.ran)
    assert len(history.samples) >= 5
    assert not work.disturbed
    assert history.samples[0].cases == 0
    assert history.samples[-1].cases == len(work.ran)


def test_cases_run_on_all_workers_at_once(tmp_path: Path) -> None:
    history = run(tmp_path, FakeWork(together=5), 5, seconds=60, interval_s=60, numbers=range(10))
    assert len(history.cases) == 10


def test_time_continues_that_of_earlier_sessions(tmp_path: Path) -> None:
    history = run(tmp_path, FakeWork(), 1, seconds=0.05, interval_s=10, before_s=100)
    assert [100 <= sample.at_s < 110 for sample in history.samples] == [True, True]


def test_no_time_runs_no_case(tmp_path: Path) -> None:
    work = FakeWork()
    run(tmp_path, work, 2, seconds=0.0, interval_s=1)
    assert work.ran == []
