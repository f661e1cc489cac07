"""Cases run on all workers, each once; the harness is looked at only while nothing runs; an error ends all."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time

import pytest

from cprlib.campaign.soak.loop import Loop
from cprlib.campaign.soak.record import CaseRow, Sample
from cprlib.campaign.workers import Children
from cprlib.errors import EnvironmentFailure
from cprlib.process import spawn
from tests.unit.soak.samples import row


class FakeWork:
    """Cases that take a moment, and a look at the harness that would notice one that runs."""

    def __init__(self, case_s: float = 0.004) -> None:
        self.case_s = case_s
        self.ran: list[int] = []
        self.samples: list[Sample] = []
        self.running = self.most = 0
        self.disturbed = False
        self.lock = threading.Lock()

    def run(self, number: int) -> CaseRow | None:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.ran.append(number)
        time.sleep(self.case_s)
        with self.lock:
            self.running -= 1
        return row(number)

    def sample(self, at_s: float, cases: int) -> Sample:
        self.disturbed |= self.running > 0
        time.sleep(0.002)
        self.disturbed |= self.running > 0
        self.samples.append(Sample(0, at_s, cases, {}))
        return self.samples[-1]


class FakeWatcher:
    def __init__(self) -> None:
        self.rows: list[CaseRow] = []
        self.samples: list[Sample] = []

    def ran(self, row: CaseRow) -> None:
        self.rows.append(row)

    def rested(self, sample: Sample) -> None:
        self.samples.append(sample)


def run(work: FakeWork, workers: int, seconds: float, rest_s: float, **more: float) -> FakeWatcher:
    watcher = FakeWatcher()
    loop = Loop(
        itertools.count(1),
        work,
        watcher,
        Children(),
        workers=workers,
        seconds=seconds,
        rest_s=rest_s,
        before_s=more.get("before_s", 0.0),
    )
    loop.run()
    return watcher


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_case_is_run_once_and_rests_are_undisturbed(workers: int) -> None:
    work = FakeWork()
    watcher = run(work, workers, seconds=0.4, rest_s=0.03)
    assert sorted(work.ran) == list(range(1, len(work.ran) + 1))
    assert sorted(item.number for item in watcher.rows) == sorted(work.ran)
    assert work.most == workers
    assert len(watcher.samples) >= 5
    assert not work.disturbed
    assert watcher.samples[0].cases == 0
    assert watcher.samples[-1].cases == len(work.ran)


def test_time_of_earlier_sessions_goes_on() -> None:
    watcher = run(FakeWork(), 1, seconds=0.05, rest_s=10, before_s=100)
    assert [100 <= sample.at_s < 101 for sample in watcher.samples] == [True, True]


def test_no_time_runs_no_case() -> None:
    work = FakeWork()
    run(work, 2, seconds=0.0, rest_s=1)
    assert work.ran == []


def test_error_that_all_would_meet_ends_the_loop() -> None:
    class NoSpace(FakeWork):
        def run(self, number: int) -> CaseRow | None:
            super().run(number)
            raise EnvironmentFailure("make a folder", "No space left on device")

    work = NoSpace()
    with pytest.raises(EnvironmentFailure, match="No space left"):
        run(work, 2, seconds=60, rest_s=0.05)
    assert len(work.ran) <= 2


def test_interruption_ends_what_runs_and_starts_nothing_more() -> None:
    children = Children()
    running: list[subprocess.Popen[str]] = []

    class Slow(FakeWork):
        def run(self, number: int) -> CaseRow | None:
            super().run(number)
            with spawn(["sleep", "60"], purpose="sleep") as child:
                running.append(child)
                children.add(child)
                os.kill(os.getpid(), signal.SIGINT)
                child.wait()
            return None

    work, watcher = Slow(), FakeWatcher()
    loop = Loop(itertools.count(1), work, watcher, children, workers=1, seconds=60, rest_s=60)
    begun = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where this runs in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 20
    assert (len(work.ran), watcher.rows) == (1, [])
    assert running[0].returncode == -9
