"""The figures of a row, from the evidence of its guests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.campaign.compare.guest import INSTRUMENT, comparison_policy, updates_of
from cprlib.campaign.scoreboard.plan import Row
from cprlib.evidence.records import Budget, Outcome, Role, UpdateFigures
from cprlib.report.fault_matrix import fault_matrix
from cprlib.report.pipeline import judge_cases, judge_results
from cprlib.traffic.figures import Interruption
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.policy import Policy


@dataclass(frozen=True, slots=True)
class Spread:
    """Durations of a row's updates in ms, sorted."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one, or the mean of the two in the middle."""
        half, odd = divmod(len(self.values), 2)
        return self.values[half] if odd else (self.values[half - 1] + self.values[half]) / 2


@dataclass(frozen=True, slots=True)
class Counts:
    """Packets of a row's updates in one direction, over all updates whose counts are valid.

    :param most: of one update.
    """

    total: int
    most: int
    updates: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A row with its figures.

    :param version: of the QEMU.
    :param problem: why nothing was measured; empty when something was.
    :param updates: of the guests whose figures are valid.
    :param counted: those of them whose pause the tap queue could buffer: their packets count.
    :param discarded: why a guest's figures are discarded, one text for each guest.
    :param faults: injected; :param survived: by the QEMU that had to; :param unclear: inconclusive ones.
    :param failures: what an update did wrong apart from losing packets, each text once.
    """

    row: Row
    version: str = ""
    problem: str = ""
    updates: tuple[UpdateFigures, ...] = ()
    counted: tuple[UpdateFigures, ...] = ()
    discarded: tuple[str, ...] = ()
    faults: int = 0
    survived: int = 0
    unclear: int = 0
    failures: tuple[str, ...] = ()

    def lost(self, direction: str) -> Counts | None:
        """Lost packets in a direction, ``forward`` or ``return_``; None without a valid count."""
        values = [value for item in self.counted if (value := getattr(item.loss, direction)) is not None]
        return Counts(sum(values), max(values), len(values)) if values else None

    def interruption(self, direction: str) -> Spread | None:
        """Interruption in a direction, the middle of each range; None without a measured one."""
        ranges: Iterable[Interruption] = (getattr(item.interruption, direction) for item in self.updates)
        values = [
            (item.low_ms + item.high_ms) / 2 for item in ranges if item.low_ms is not None and item.high_ms is not None
        ]
        return Spread(tuple(sorted(values))) if values else None

    @property
    def identity(self) -> tuple[int, int] | None:
        """Descriptors that stayed the same open file, of all descriptors, over all updates; None when unknown."""
        pairs = [
            (item.fds.paired, item.fds.unpaired)
            for item in self.updates
            if item.fds.paired is not None and item.fds.unpaired is not None
        ]
        same, others = sum(pair[0] or 0 for pair in pairs), sum(pair[1] or 0 for pair in pairs)
        return (same, same + others) if pairs else None


def measure(row: Row, version: str, updates: Sequence[Path], failures: Sequence[Path], policy: Policy) -> Measured:
    """The figures of a row.

    :param updates: folders of the jobs that measured its updates.
    :param failures: folders of those that injected faults.
    """
    limits = comparison_policy(policy)
    guests = [case for folder in updates for case in _cases(folder, policy)]
    valid: list[UpdateFigures] = []
    counted: list[UpdateFigures] = []
    discarded: list[str] = []
    problems: list[str] = []
    for case in guests:
        evidence = case.evidence
        found = updates_of(evidence)
        problems += _failures(case)
        if evidence.skipped:
            discarded.append(evidence.skip_text)
        elif reason := _distrust(case):
            discarded.append(reason)
        elif not found:
            discarded.append("no update was completed")
        else:
            valid += found
            counted += (update for update in found if not _overlong(update, evidence.budget))
    discarded += ["no evidence"] * (len(updates) - len(guests))
    cells = [cell for folder in failures for cell in fault_matrix(judge_results(folder, limits)).cells]
    return Measured(
        row,
        version,
        "" if guests else "no guest was measured",
        tuple(valid),
        tuple(counted),
        tuple(discarded),
        len(cells),
        sum(cell.verdict == Outcome.PASS for cell in cells),
        sum(cell.verdict == Outcome.INCONCLUSIVE for cell in cells),
        tuple(dict.fromkeys(problems)),
    )


def _cases(folder: Path, policy: Policy) -> list[JudgedCase]:
    return [case for case in judge_cases(folder, comparison_policy(policy)) if case.evidence.started_ns]


def _overlong(update: UpdateFigures, budget: Budget | None) -> bool:
    """Whether the pause of an update was longer than the tap queue has room for."""
    room = budget.longest_pause_ms if budget else None
    pauses = (update.interruption.forward.high_ms, update.interruption.return_.high_ms)
    return room is not None and any(pause is not None and pause > room for pause in pauses)


def _distrust(case: JudgedCase) -> str:
    """Why the figures of a guest are discarded; empty when they are valid."""
    found = (
        item for item in case.verdict.findings if item.outcome == Outcome.INCONCLUSIVE and item.about in INSTRUMENT
    )
    return next((f"{item.about}: {item.text}" for item in found), "")


def _failures(case: JudgedCase) -> list[str]:
    """Properties that failed, without the packet counts, which have columns of their own."""
    if case.evidence.role is Role.NEGATIVE_CONTROL:
        return []
    return [
        item.about
        for item in case.verdict.findings
        if item.outcome == Outcome.FAIL and item.about not in ("loss", "ledger")
    ]
