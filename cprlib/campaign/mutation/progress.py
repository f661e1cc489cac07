"""A line for each thing that happens in a proof, with the time it has taken and an estimate of what is left."""

from __future__ import annotations

import time
from collections.abc import Callable

from cprlib.build.progress import seconds_text
from cprlib.campaign.mutation.outcome import CellOutcome, JudgedCell
from cprlib.campaign.mutation.pool import BuiltRow, PlannedRow
from cprlib.campaign.mutation.tests import SuiteTest
from cprlib.report.formatting import one_line

LINE = 200  # characters of a line


class ProofProgress:
    """See :class:`cprlib.campaign.mutation.pool.Watcher`.

    :param say: takes a line.
    :param cells: of the whole plan.
    :param builds: of the whole plan.
    :param workers: tests at once.
    :param clock: seconds, for tests.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        cells: int,
        builds: int,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._cells = cells
        self._builds = builds
        self._workers = workers
        self._clock = clock
        self._begun = clock()
        self._done = 0
        self._ran = 0
        self._cells_seconds = 0.0
        self._built = 0
        self._build_seconds = 0.0

    def built(self, row: PlannedRow, built: BuiltRow, seconds: float) -> None:
        """See :meth:`cprlib.campaign.mutation.pool.Watcher.built`."""
        self._built += 1
        self._build_seconds += seconds
        if built.qemu is None:
            self._done += len(row.tests)
            self._line(f"{row.build.name}: not built: {built.problem}")
        elif row.build.variant:
            self._line(f"{row.build.name}: built in {seconds_text(seconds)}")

    def kept(self, row: PlannedRow, count: int) -> None:
        """See :meth:`cprlib.campaign.mutation.pool.Watcher.kept`."""
        self._done += count
        self._line(f"{row.build.name}: {count} of {len(row.tests)} tests were run before")

    def ran(self, row: PlannedRow, test: SuiteTest, judged: JudgedCell) -> None:
        """See :meth:`cprlib.campaign.mutation.pool.Watcher.ran`."""
        self._done += 1
        self._ran += 1
        self._cells_seconds += judged.seconds or 0.0
        must = judged.outcome != CellOutcome.DETECTED and row.build.must(test.id)
        variant = row.build.variant
        if variant and row.build.must(test.id) and judged.outcome == CellOutcome.DETECTED:
            must = not judged.matches(variant.message)
        took = f" after {judged.seconds:.1f} s" if judged.seconds is not None else ""
        said = f": {judged.messages[0]}" if judged.messages else ""
        wrong = " (not as the variant's manifest says)" if must else ""
        self._line(f"{row.build.name}, {test.id}: {judged.outcome}{wrong}{took}{said}")

    def left(self) -> float | None:
        """Seconds that the rest will take; None before anything was run."""
        if not self._ran:
            return None
        elapsed = self._clock() - self._begun
        per_cell = max(self._cells_seconds / self._ran, 0.1)
        per_build = self._build_seconds / self._built if self._built else 0.0
        work = (self._cells - self._done) * per_cell + (self._builds - self._built) * per_build
        spent = (self._cells_seconds + self._build_seconds) / self._workers
        return work / self._workers * max(1.0, elapsed / spent if spent else 1.0)

    def _line(self, text: str) -> None:
        left = self.left()
        rest = f", about {seconds_text(left)} left" if left is not None else ""
        head = f"[{seconds_text(self._clock() - self._begun)}{rest}] {self._done}/{self._cells} "
        self._say(head + one_line(text, LINE))
