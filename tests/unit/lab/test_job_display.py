"""The display of a job: what runs, what has ended, how long the rest takes; hostile text stays one line of text."""

from __future__ import annotations

import io
import os
import pty
from pathlib import Path

import pytest

from cprlib.lab.avocado_run import SuiteRun, run_shown
from cprlib.lab.job_display import JobDisplay, JobState, LiveTable, ended_line, job_display, summary
from cprlib.lab.job_events import ChosenTests, EndedTest, JobEvent, StartedTest, read_events
from cprlib.report.results_folder import LOG_FILE

TESTS = tuple(f"/x/test_tap.py:Tap.test_{name}" for name in "abcd")
SUITE = """
from avocado import Test

class Some(Test):
    def test_passes(self):
        pass
    def test_fails(self):
        self.fail("3 packets lost")
    def test_unclear(self):
        self.error("the capture dropped packets")
    def test_skipped(self):
        self.cancel("no cpr=on")
"""


def ended(number: int, seconds: float, status: str = "PASS", reason: str = "") -> EndedTest:
    return EndedTest(str(number), TESTS[number - 1], status, seconds, reason)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def state(clock: Clock, expected: dict[str, float], at_once: int = 1) -> JobState:
    made = JobState(expected, at_once, clock)
    made.handle(ChosenTests(TESTS))
    return made


def test_time_left_is_that_of_earlier_runs(clock: Clock) -> None:
    assert state(clock, {"a": 10, "b": 20, "c": 30, "d": 40}).seconds_left() == 100
    assert state(clock, {"a": 10, "b": 20, "c": 30, "d": 40}, at_once=2).seconds_left() == 50
    assert state(clock, {"a": 10, "b": 10, "c": 10, "d": 90}, at_once=4).seconds_left() == 90, "as long as the longest"
    assert state(clock, {"a": 10}).seconds_left() == 40, "a case that is not known takes the mean"
    assert state(clock, {"a": 10, "test-of-another-suite": 1}).seconds_left() == 40


def test_time_left_follows_this_run(clock: Clock) -> None:
    job = state(clock, {"a": 10, "b": 20, "c": 30, "d": 40})
    job.handle(StartedTest("1", TESTS[0]))
    clock.now = 4
    assert job.seconds_left() == 96
    clock.now = 15
    assert job.seconds_left() == 90, "a case that takes longer than before ends soon"
    job.handle(ended(1, 15))
    assert job.seconds_left() == 135, "all take half as long again"


def test_time_left_without_history_is_the_mean(clock: Clock) -> None:
    job = state(clock, {})
    assert job.seconds_left() is None
    job.handle(StartedTest("1", TESTS[0]))
    assert job.seconds_left() is None
    job.handle(ended(1, 12))
    assert job.seconds_left() == 36


def test_summary_counts_outcomes(clock: Clock) -> None:
    job = JobState({}, 2, clock)
    assert summary(job) == "finding the tests; 0 s"
    job.handle(ChosenTests(TESTS))
    assert summary(job) == "0 of 4 tests; 0 s"
    for number, status in enumerate(("PASS", "FAIL", "ERROR"), start=1):
        job.handle(StartedTest(str(number), TESTS[number - 1]))
        job.handle(ended(number, 20, status))
    clock.now = 61
    assert summary(job) == "3 of 4 tests: 1 pass, 1 fail, 1 inconclusive; 1:01, about 20 s left"
    job.handle(ended(4, 1, "CANCEL"))
    assert summary(job) == "4 of 4 tests: 1 pass, 1 fail, 1 inconclusive, 1 skip; 1:01"


def test_text_of_a_guest_stays_text_on_one_line() -> None:
    line = ended_line(ended(1, 2.04, "FAIL", "lost\x1b]0;title\x07 [red]3[/red]\nfail  b  1 of 1 " + "x" * 999), 1, 4)
    assert line.startswith("fail         a ")
    assert "2.0 s  1 of 4  lost" in line
    assert not {"\x1b", "\x07", "\n"} & set(line)
    assert len(line) < 320


def test_lines_without_a_terminal() -> None:
    stream = io.StringIO()
    with JobDisplay({}, 2, stream) as display:
        events: tuple[JobEvent, ...] = (ChosenTests(TESTS), StartedTest("1", TESTS[0]), ended(1, 12.34))
        for event in events:
            display.handle(event)
        display.error("no such spawner\n")
    assert [" ".join(line.split()) for line in stream.getvalue().splitlines()] == [
        "4 tests, 2 at once",
        "pass a 12.3 s 1 of 4",
        "avocado: no such spawner",
    ]


def test_reader_that_has_ended_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream, JobDisplay({}, 2, stream) as display:
        display.handle(ChosenTests(TESTS))
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what is left in the buffer has to go somewhere


def test_table_on_a_terminal_is_removed_and_lines_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    main, terminal = pty.openpty()
    with os.fdopen(main, "rb", buffering=0) as screen, os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("CPRLIB_CACHE", str(tmp_path))
        display = job_display(2, None)
        assert isinstance(display, LiveTable)
        with display:
            display.handle(ChosenTests(TESTS))
            display.handle(StartedTest("1", TESTS[0]))
            display.handle(StartedTest("2", TESTS[1]))
            display.handle(ended(1, 3, "FAIL", "[bold]x[/bold]"))
        print("end", file=stream, flush=True)
        written = b""
        while not written.endswith(b"end\r\n"):  # the terminal passes on what is written to it a moment later
            written += screen.read(100_000)
    text = written.decode().removesuffix("end\r\n")
    assert "0 of 4 tests; 0 s" in text or "1 of 4 tests: 1 fail" in text
    assert "[bold]x[/bold]" in text, "text is no markup"
    assert "b" in text.split("running")[-1]
    assert text.endswith(("\x1b[?25h\r\x1b[2K", "\x1b[2K")), "the table is gone"
    assert "\x1b[?25h" in text, "the cursor is back"


def test_lines_that_are_no_events_are_left_out() -> None:
    seen: list[JobEvent] = []
    read_events(["", "x", '{"type": "later"}', '{"type": "test-started", "number": "1", "test": "t"}'], seen.append)
    assert seen == [StartedTest("1", "t")]


def test_real_job(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SUITE)
    stream = io.StringIO()
    run_shown(SuiteRun(tmp_path, [str(tmp_path / "test_some.py")], {}), JobDisplay({}, 1, stream))
    first, *lines = stream.getvalue().splitlines()
    assert first == "4 tests, 1 at once"
    words = [line.split() for line in lines]
    assert sorted((word[0], word[1]) for word in words) == [
        ("fail", "fails"),
        ("inconclusive", "unclear"),
        ("pass", "passes"),
        ("skip", "skipped"),
    ]
    assert any(line.endswith("of 4  3 packets lost") for line in lines)
    assert "RESULTS    : PASS 1" in (tmp_path / LOG_FILE).read_text(), "Avocado's own output is in the log"


def test_errors_of_avocado_are_shown_and_logged(tmp_path: Path) -> None:
    stream = io.StringIO()
    run_shown(SuiteRun(tmp_path, [str(tmp_path / "gone.py")], {}), JobDisplay({}, 1, stream))
    assert "avocado: No tests found" in stream.getvalue()
    assert "No tests found" in (tmp_path / LOG_FILE).read_text()
