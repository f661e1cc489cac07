"""The records of coverage.json: each executable line that the series adds, how often it ran, and which tests run it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cprlib.codec import Count
from cprlib.evidence.records import Outcome
from cprlib.report.environment import Environment
from cprlib.report.schema import SchemaFile

SCHEMA: Final = 1  # of coverage.json


@dataclass(frozen=True, slots=True)
class LineCoverage:
    """An executable line.

    :param file: relative to QEMU's source; :param line: its number there with the whole series applied.
    :param count: how often it ran, in all tests and processes.
    :param branches: how often each branch that leaves the line was taken; empty without a condition.
    :param tests: that run it, as ``cprlib run`` takes them.
    :param reason: why no test runs it; empty when a test does, or when the list of reasons has none.
    """

    file: str
    line: int
    text: str
    count: Count
    branches: tuple[Count, ...] = ()
    tests: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it neither runs nor has a reason."""
        return not self.count and not self.reason


@dataclass(frozen=True, slots=True)
class CoverageFigures:
    """Lines and branches of a patch or of the whole series."""

    lines: int
    lines_run: int
    branches: int
    branches_taken: int

    @property
    def percent(self) -> float:
        """Share of the lines that run; 100 where there are none."""
        return 100.0 * self.lines_run / self.lines if self.lines else 100.0


@dataclass(frozen=True, slots=True)
class PatchCoverage:
    """A patch of the series.

    :param number: as in its file name.
    :param lines: those that it wrote last: lines that a later patch writes again are the later patch's.
    """

    number: int
    name: str
    subject: str
    lines: tuple[LineCoverage, ...]

    @property
    def figures(self) -> CoverageFigures:
        return figures_of(self.lines)


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """coverage.json.

    :param base: QEMU release; :param series: digest of the patches on it.
    :param tests: that were run, as ``cprlib run`` takes them.
    :param not_passed: tests of these that did not pass on the coverage build; the lines that they ran count.
    :param unused_reasons: entries of the list of reasons that apply to no line, because it runs or is gone.
    """

    base: str
    series: str
    patches: tuple[PatchCoverage, ...]
    tests: tuple[str, ...]
    not_passed: tuple[str, ...] = ()
    unused_reasons: tuple[str, ...] = ()
    environment: Environment = field(default_factory=Environment)
    command: str = ""
    started: str = ""
    finished: str = ""
    schema: int = SCHEMA

    @property
    def lines(self) -> tuple[LineCoverage, ...]:
        return tuple(line for patch in self.patches for line in patch.lines)

    @property
    def figures(self) -> CoverageFigures:
        return figures_of(self.lines)

    @property
    def explained_lines(self) -> tuple[LineCoverage, ...]:
        return tuple(line for line in self.lines if line.reason)

    @property
    def open_lines(self) -> tuple[LineCoverage, ...]:
        return tuple(line for line in self.lines if line.is_open)

    @property
    def sentence(self) -> str:
        """``371 of 375 lines run (98.9 %), 260 of 290 branches; 4 lines have a reason, 0 neither run nor have one``."""
        figures = self.figures
        return (
            f"{figures.lines_run} of {figures.lines} lines run ({figures.percent:.1f} %), "
            f"{figures.branches_taken} of {figures.branches} branches; "
            f"{len(self.explained_lines)} lines have a reason, {len(self.open_lines)} neither run nor have one"
        )

    @property
    def verdict(self) -> Outcome:
        """Pass when every line runs or has a reason."""
        return Outcome.FAIL if self.open_lines else Outcome.PASS


COVERAGE_SCHEMA_FILE = SchemaFile("coverage", SCHEMA, CoverageReport)


def figures_of(lines: Iterable[LineCoverage]) -> CoverageFigures:
    found = tuple(lines)
    branches = [count for line in found for count in line.branches]
    return CoverageFigures(len(found), sum(line.count > 0 for line in found), len(branches), sum(map(bool, branches)))
