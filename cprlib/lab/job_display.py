"""The tests of a job while they run: a live table on a terminal, else a line for each case that has ended."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self, TextIO

from cprlib.build.progress import seconds_text
from cprlib.evidence.records import Outcome
from cprlib.lab.job_events import ChosenTests, EndedTest, JobEvent, StartedTest
from cprlib.lab.schedule import known_durations
from cprlib.report.formatting import one_line
from cprlib.report.read_results import STATUS_OF
from cprlib.report.results_folder import case_id
from cprlib.words import counted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

OUTCOMES = {status: outcome for outcome, status in STATUS_OF.items()} | {"SKIP": Outcome.SKIP}
"""Of the statuses that a test gives Avocado; any other is inconclusive."""
STYLES = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.INCONCLUSIVE: "yellow", Outcome.SKIP: "dim"}
NAME_WIDTH = 56  # columns of a case's name in a line
REASON_WIDTH = 200


def outcome_of(event: EndedTest) -> Outcome:
    """How a test ended, in the words of a verdict."""
    return OUTCOMES.get(event.status, Outcome.INCONCLUSIVE)


def case_name(test: str) -> str:
    """The case of a test, with its variant when it has one: ``update-point q4-vhost-q35-cpr-10.0``."""
    _, _, variant = test.partition(";")
    return one_line(" ".join(filter(None, (case_id(test), variant))), REASON_WIDTH)


class JobState:
    """Tests that run, tests that have ended, and the time that the rest takes.

    :param expected: seconds by case, of earlier runs.
    :param at_once: number of tests that run at once.
    :param clock: seconds.
    """

    def __init__(
        self, expected: Mapping[str, float], at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._expected = expected
        self._at_once = at_once
        self._clock = clock
        self._begun = clock()
        self._waiting: collections.Counter[str] = collections.Counter()
        self._running: dict[str, tuple[str, float]] = {}  # by number in the job: test, start
        self._ended: list[EndedTest] = []
        self.total = 0

    def handle(self, event: JobEvent) -> None:
        match event:
            case ChosenTests():
                self.total = len(event.tests)
                self._waiting = collections.Counter(case_id(test) for test in event.tests)
            case StartedTest():
                self._waiting[case_id(event.test)] -= 1
                self._running[event.number] = (event.test, self._clock())
            case EndedTest():
                self._running.pop(event.number, None)
                self._ended.append(event)

    @property
    def ended(self) -> int:
        return len(self._ended)

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How they ended, in the order of :class:`Outcome`."""
        counts = collections.Counter(outcome_of(event) for event in self._ended)
        return {outcome: counts[outcome] for outcome in Outcome if counts[outcome]}

    def running(self) -> list[tuple[str, float]]:
        """Tests that run, with seconds, longest first."""
        now = self._clock()
        return [(test, now - start) for test, start in self._running.values()]

    def elapsed(self) -> float:
        return self._clock() - self._begun

    def seconds_left(self) -> float | None:
        """How long the tests that have not ended will take; None when nothing is known of any test."""
        known = [(event.seconds, self._expected.get(case_id(event.test))) for event in self._ended]
        both = [(seconds, before) for seconds, before in known if before]
        # A case's own time is shorter than its test's, and this machine may be slower than in earlier runs.
        ratio = sum(seconds for seconds, _ in both) / sum(before for _, before in both) if both else 1.0
        earlier = [self._expected[case] for case in self._waiting if case in self._expected]
        times = [seconds for seconds, _ in known] or earlier
        if not times:
            return None
        mean = sum(times) / len(times)

        def whole(case: str) -> float:
            return self._expected[case] * ratio if case in self._expected else mean

        running = [max(0.0, whole(case_id(test)) - seconds) for test, seconds in self.running()]
        waiting = [whole(case) for case in self._waiting.elements()]
        return max(sum(running + waiting) / self._at_once, max(running + waiting, default=0.0))


def summary(state: JobState) -> str:
    """One line: ``17 of 52 tests: 15 pass, 1 fail, 1 skip; 4:10, about 3:00 left``."""
    if not state.total:
        return f"finding the tests; {seconds_text(state.elapsed())}"
    counts = ", ".join(f"{count} {outcome}" for outcome, count in state.outcomes.items())
    left = state.seconds_left() if state.ended < state.total else None
    rest = f", about {seconds_text(left)} left" if left is not None else ""
    done = f"{state.ended} of {counted(state.total, 'test')}" + (f": {counts}" if counts else "")
    return f"{done}; {seconds_text(state.elapsed())}{rest}"


def ended_line(event: EndedTest, number: int, total: int) -> str:
    """One line for a case that has ended: outcome, case, seconds, number of total, and why it did not pass."""
    outcome = outcome_of(event)
    line = f"{outcome:<12} {case_name(event.test):<{NAME_WIDTH}} {event.seconds:6.1f} s  {number} of {total}"
    reason = one_line(event.reason, REASON_WIDTH).removeprefix(f"verdict: {outcome}: ")  # the line begins with it
    return f"{line}  {reason}" if reason and outcome is not Outcome.PASS else line


class JobDisplay:
    """Prints a line for each case that has ended. Methods may be called from several threads.

    :param expected: seconds by case, of earlier runs.
    :param at_once: number of tests that run at once.
    """

    def __init__(self, expected: Mapping[str, float], at_once: int, stream: TextIO) -> None:
        self._expected = expected
        self._at_once = at_once
        self._stream = stream
        self._lock = threading.Lock()
        self._state = JobState({}, at_once)

    def __enter__(self) -> Self:
        self._state = JobState(self._expected, self._at_once)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def handle(self, event: JobEvent) -> None:
        with self._lock:  # released before anything is printed: a live table takes it while it holds the terminal
            self._state.handle(event)
            line = style = ""
            if isinstance(event, EndedTest):
                line, style = ended_line(event, self._state.ended, self._state.total), STYLES[outcome_of(event)]
            elif isinstance(event, ChosenTests):
                line = self.announcement()
        if line:
            self.print(line, style)

    def announcement(self) -> str:
        """The line when the tests are known: how many there are."""
        left = self._state.seconds_left()
        expected = f", about {seconds_text(left)}" if left is not None else ""
        at_once = min(self._at_once, self._state.total)
        return f"{counted(self._state.total, 'test')}, {at_once} at once{expected}"

    def error(self, line: str) -> None:
        """Show a line of Avocado's errors."""
        if line.strip():
            self.print(f"avocado: {one_line(line, REASON_WIDTH)}")

    def print(self, line: str, style: str = "") -> None:
        """Print a line; that its reader has ended is not an error of the run.

        :param style: a style of rich, for a terminal.
        """
        del style
        with contextlib.suppress(OSError):
            print(line, file=self._stream, flush=True)


class LiveTable(JobDisplay):
    """A table of the running cases below the lines of those that have ended, which scroll away."""

    def __init__(self, expected: Mapping[str, float], at_once: int, stream: TextIO) -> None:
        super().__init__(expected, at_once, stream)
        self._console: Console | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.console import Console  # noqa: PLC0415 - rich is slow to import, and Avocado is starting meanwhile
        from rich.live import Live  # noqa: PLC0415

        super().__enter__()
        self._console = Console(file=self._stream, highlight=False)
        self._live = Live(get_renderable=self.table, console=self._console, refresh_per_second=2, transient=True)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def table(self) -> RenderableType:
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        with self._lock:
            running, line = self._state.running(), summary(self._state)
        table = Table.grid(padding=(0, 1))
        table.add_column(width=12, style="cyan")
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for test, seconds in running:
            table.add_row("running", Text(case_name(test)), seconds_text(seconds))
        return Group(table, Text(line, style="bold"))

    def announcement(self) -> str:
        """Nothing: the table has the number of tests."""
        return ""

    def print(self, line: str, style: str = "") -> None:
        from rich.text import Text  # noqa: PLC0415

        if self._console:
            with contextlib.suppress(OSError):
                self._console.print(Text(line, style=style), soft_wrap=True)


def job_display(at_once: int, engine: str | None) -> JobDisplay:
    """A live table when standard error is a terminal that can show one, else lines; see :class:`JobDisplay`.

    :param engine: the lab's; None natively.
    """
    live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    expected = {case_id(test): seconds for test, seconds in known_durations(engine).items()}
    return (LiveTable if live else JobDisplay)(expected, at_once, sys.stderr)
