"""The figures of a row, from the evidence of its guests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.campaign.compare.guest import comparison_policy, discard_reasons, middle_ms, updates_of
from cprlib.campaign.scoreboard.plan import Row
from cprlib.errors import SkipWord
from cprlib.evidence.records import Outcome, Role, UpdateFigures
from cprlib.report.build_report import judge_cases
from cprlib.report.fault_matrix import fault_matrix
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.policy import Policy

WITHOUT_CPR = "no cpr=on"
"""A failure: the series brings it, and stock QEMUs are updated by mechanisms that do not need it."""


@dataclass(frozen=True, slots=True)
class PacketCounts:
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
    :param faults: injected; :param survived: by the QEMU that had to; :param inconclusive: inconclusive ones.
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
    inconclusive: int = 0
    failures: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether the row has figures, failed properties or faults."""
        return bool(self.updates or self.failures or self.faults)

    def lost(self, direction: str) -> PacketCounts | None:
        """Lost packets in a direction, ``forward`` or ``return_``; None without a valid count."""
        values = [value for item in self.counted if (value := getattr(item.loss, direction)) is not None]
        return PacketCounts(sum(values), max(values), len(values)) if values else None

    def interruption(self, direction: str) -> list[float]:
        """Interruptions in a direction in ms, sorted: the middle of each range that was measured."""
        middles = (middle_ms(getattr(item.interruption, direction)) for item in self.updates)
        return sorted(value for value in middles if value is not None)

    @property
    def identity(self) -> tuple[int, int] | None:
        """Descriptors that stayed the same open file, of all descriptors, over all updates; None when unknown."""
        known = [item.fds for item in self.updates if item.fds.paired is not None and item.fds.unpaired is not None]
        same = sum(fds.paired or 0 for fds in known)
        return (same, same + sum(fds.unpaired or 0 for fds in known)) if known else None


def measure(row: Row, version: str, updates: Sequence[Path], failures: Sequence[Path], policy: Policy) -> Measured:
    """The figures of a row.

    :param updates: folders of the jobs that measured its updates.
    :param failures: folders of those that injected faults.
    """
    limits = comparison_policy(policy)
    guests = [case for folder in updates for case in judge_cases(folder, limits) if case.evidence.started_ns]
    valid, counted = list[UpdateFigures](), list[UpdateFigures]()
    discarded, problems = list[str](), list[str]()
    for case in guests:
        evidence = case.evidence
        found = updates_of(evidence)
        if evidence.skip_word == SkipWord.NO_CPR:
            problems.append(WITHOUT_CPR)
            continue
        problems += _failures(case)
        if evidence.skipped:
            discarded.append(evidence.skip_text)
        elif reasons := discard_reasons(case):
            discarded.append(reasons[0])
        elif not found:
            discarded.append("no update was completed")
        else:
            valid += found
            room = evidence.budget
            counted += (update for update in found if not (room and room.is_exceeded(update.interruption)))
    discarded += ["no evidence"] * (len(updates) - len(guests))
    cells = [cell for folder in failures for cell in fault_matrix(judge_cases(folder, limits)).cells]
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


def _failures(case: JudgedCase) -> list[str]:
    """Properties that failed, without the packet counts, which have columns of their own."""
    if case.evidence.role is Role.NEGATIVE_CONTROL:
        return []
    return [
        item.about
        for item in case.verdict.findings
        if item.outcome == Outcome.FAIL and item.about not in ("loss", "ledger")
    ]
