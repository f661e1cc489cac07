"""The matrix: what each test came to on each build, and what that says of the suite.

A variant is proven when every test that its manifest names caught it with the message that the manifest wants. The
good build is proven when nothing was detected on it, in any of its runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.build.mutants import Mutant
from cprlib.campaign.mutation.outcome import CellOutcome, JudgedCell
from cprlib.errors import ExitStatus
from cprlib.evidence.terms import Outcome
from cprlib.report.environment import Environment

EXIT_STATUS = {
    Outcome.PASS: ExitStatus.PASS,
    Outcome.FAIL: ExitStatus.FAIL,
    Outcome.INCONCLUSIVE: ExitStatus.INCONCLUSIVE,
}
_WORST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


@dataclass(frozen=True, slots=True)
class Build:
    """A row: the good build in one of its runs, or a variant.

    :param variant: None for the good build.
    :param run: of the good build, from 1.
    """

    variant: Mutant | None = None
    run: int = 1

    @property
    def name(self) -> str:
        """As people read it."""
        return self.variant.name if self.variant else f"good build, run {self.run}"

    @property
    def folder(self) -> str:
        """Below the folder of cells."""
        return f"variants/{self.variant.name}" if self.variant else f"good/run-{self.run}"

    def must(self, test: str) -> bool:
        """True when this test has to catch it."""
        return self.variant is not None and test in self.variant.killed_by


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    :param folder: of its evidence, below the folder of the proof.
    :param lab_lost: labs that died under it and were replaced.
    :param changed: an input was edited while it ran.
    """

    test: str
    judged: JudgedCell
    folder: str
    lab_lost: int = 0
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence of why a row is no proof."""

    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """A build and its cells.

    :param wanted: ids of the tests that were to be run on it.
    :param cells: by the test's id; those that never ran are not in it.
    :param qemu, sha256: the binary; empty when it was not built.
    :param problem: why there is no build.
    """

    build: Build
    wanted: tuple[str, ...]
    cells: Mapping[str, Cell]
    qemu: str = ""
    sha256: str = ""
    problem: str = ""

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it is no proof; empty when it is one."""
        if self.problem:
            return (Reason(Outcome.FAIL, f"not built: {self.problem}"),)
        found = _variant(self, self.build.variant) if self.build.variant else _good(self)
        return tuple(sorted(found, key=lambda reason: _WORST.index(reason.outcome)))

    @property
    def outcome(self) -> Outcome:
        """Pass: what had to be shown was shown."""
        return min((reason.outcome for reason in self.reasons), key=_WORST.index, default=Outcome.PASS)

    @property
    def detections(self) -> tuple[Cell, ...]:
        """Cells that detected it: those that must first, then the quickest."""
        found = [cell for cell in self.cells.values() if cell.judged.outcome == CellOutcome.DETECTED]
        return tuple(
            sorted(found, key=lambda cell: (not self.build.must(cell.test), cell.judged.seconds or math.inf, cell.test))
        )

    def message(self, cell: Cell) -> str:
        """The text that says it best: the one that the manifest wants, else the first."""
        if self.build.variant:
            for text in cell.judged.messages:
                if JudgedCell(CellOutcome.DETECTED, (text,)).matches(self.build.variant.message):
                    return text
        return cell.judged.messages[0] if cell.judged.messages else ""


@dataclass(frozen=True, slots=True)
class Matrix:
    """All rows and what they come to.

    :param tests: ids of the columns' tests with their references.
    :param whole: every test was to run on every build; else on a variant only those that must catch it.
    :param seconds: of the whole proof, resumed parts included.
    :param notes: worth knowing, and no reason of the verdict.
    """

    folder: Path
    rows: tuple[Row, ...]
    tests: Mapping[str, str]
    base: str
    whole: bool
    engine: str
    environment: Environment
    command: str = ""
    started_ns: int | None = None
    finished_ns: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def outcome(self) -> Outcome:
        """The worst row's; a matrix without a variant proves nothing."""
        outcomes = [row.outcome for row in self.rows]
        if not any(row.build.variant for row in self.rows) or not any(not row.build.variant for row in self.rows):
            outcomes.append(Outcome.INCONCLUSIVE)
        return min(outcomes, key=_WORST.index, default=Outcome.INCONCLUSIVE)

    @property
    def exit_status(self) -> ExitStatus:
        """0, 1 or 3."""
        return EXIT_STATUS[self.outcome]

    @property
    def variants(self) -> tuple[Row, ...]:
        """The variants' rows."""
        return tuple(row for row in self.rows if row.build.variant)

    @property
    def good(self) -> tuple[Row, ...]:
        """The good build's rows."""
        return tuple(row for row in self.rows if not row.build.variant)

    @property
    def lab_lost(self) -> int:
        """Labs that died and were replaced."""
        return sum(cell.lab_lost for row in self.rows for cell in row.cells.values())

    @property
    def sentence(self) -> str:
        """``11 of 12 variants detected as they must be; good build: 80 of 80 tests without alarm``."""
        proven = sum(row.outcome == Outcome.PASS for row in self.variants)
        cells = [cell for row in self.good for cell in row.cells.values()]
        quiet = sum(cell.judged.outcome in (CellOutcome.PASSED, CellOutcome.SKIPPED) for cell in cells)
        wanted = sum(len(row.wanted) for row in self.good)
        runs = f" in {len(self.good)} runs" if len(self.good) > 1 else ""
        return (
            f"{proven} of {len(self.variants)} variants detected as they must be; "
            f"good build: {quiet} of {wanted} tests without alarm{runs}"
        )


def _good(row: Row) -> Iterable[Reason]:
    for test, cell in _cells(row, row.wanted):
        if cell is None:
            yield Reason(Outcome.INCONCLUSIVE, f"{test} did not run")
            continue
        said = _first(cell)
        match cell.judged.outcome:
            case CellOutcome.DETECTED:
                yield Reason(Outcome.FAIL, f"false alarm of {test}: {said}")
            case CellOutcome.CRASHED:
                yield Reason(Outcome.INCONCLUSIVE, f"{test} crashed: {said}")
            case CellOutcome.INCONCLUSIVE:
                yield Reason(Outcome.INCONCLUSIVE, f"{test} is inconclusive: {said}")
            case _:
                pass


def _variant(row: Row, variant: Mutant) -> Iterable[Reason]:
    others = [cell.test for cell in row.detections if cell.test not in variant.killed_by]
    instead = f"; caught by {', '.join(others[:3])}{' and more' if others[3:] else ''}" if others else ""
    for test, cell in _cells(row, variant.killed_by):
        if cell is None:
            yield Reason(Outcome.FAIL, f"not detected: {test}, which must catch it, did not run{instead}")
            continue
        said = _first(cell)
        match cell.judged.outcome:
            case CellOutcome.DETECTED:
                if not cell.judged.matches(variant.message):
                    yield Reason(Outcome.FAIL, f"{test} fails with another message than /{variant.message}/: {said}")
            case CellOutcome.PASSED:
                yield Reason(Outcome.FAIL, f"not detected by {test}, which must catch it{instead}")
            case CellOutcome.CRASHED:
                only = "" if others else "; detected only by a crash of the harness"
                yield Reason(Outcome.FAIL, f"{test}, which must catch it, crashed: {said}{only}{instead}")
            case other:
                word = "is inconclusive" if other == CellOutcome.INCONCLUSIVE else "was skipped"
                yield Reason(Outcome.FAIL, f"{test}, which must catch it, {word}: {said}{instead}")


def _cells(row: Row, tests: Sequence[str]) -> Iterable[tuple[str, Cell | None]]:
    return ((test, row.cells.get(test)) for test in tests)


def _first(cell: Cell) -> str:
    messages = cell.judged.messages
    return f"{messages[0]}{f' (and {len(messages) - 1} more)' if messages[1:] else ''}" if messages else "no reason"
