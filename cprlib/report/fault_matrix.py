"""The fault matrix of a run: phase by actor and action, and in each cell who survived, and after how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cprlib.evidence.case import FaultSeen, Outcome
from cprlib.evidence.from_faults import checks_of
from cprlib.report.formatting import utc
from cprlib.report.run_report import RunReport
from cprlib.update.faults import Action, Actor, Phase
from cprlib.verdict.findings import Finding
from cprlib.verdict.judge import JudgedCase

_WORST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.SKIP)
EITHER = "source or target"  # whichever; but one of them
RUN_STATES = ("running", "paused")  # of a QEMU that has the guest


@dataclass(frozen=True, slots=True)
class FaultEntry:
    """One fault in one case.

    :param setting: of the case, for want of room: ``vhost x4`` is vhost and four queues.
    :param outcome: the worst of its checks, as the policy judges them; inconclusive without any.
    :param findings: of its checks, the worst first.
    """

    case: str
    setting: str
    fault: FaultSeen
    outcome: Outcome
    findings: tuple[Finding, ...]

    @property
    def anchor(self) -> str:
        """Id of its details on the page."""
        return f"fault-{self.case}-{self.fault.name}"

    @property
    def survivor(self) -> str:
        """Who was left to run the guest, in a word or two.

        Where a check is bad: who had to be, and the run state that was seen instead.
        """
        fault = self.fault
        if self.outcome == Outcome.PASS:
            seen = {"source": fault.source_state, "target": fault.target_state}
            owners = [who for who, state in seen.items() if state in RUN_STATES]
            return owners[0] if fault.survivor == EITHER and owners else fault.survivor
        return f"{fault.survivor}: {fault.state}" if fault.state else "not known"

    @property
    def died(self) -> str | None:
        """Time of death where nobody survives, ISO 8601 in UTC."""
        return utc(self.fault.died_ns)


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    actor: str
    action: str


@dataclass(frozen=True, slots=True)
class FaultMatrix:
    """All faults of a run.

    :param phases: rows, in the order in which an update comes to them.
    :param columns: in the order of actors and actions.
    """

    phases: tuple[str, ...]
    columns: tuple[Column, ...]
    entries: tuple[FaultEntry, ...]

    @property
    def actors(self) -> tuple[str, ...]:
        """Actors that have columns."""
        return tuple(dict.fromkeys(column.actor for column in self.columns))

    def columns_of(self, actor: str) -> tuple[Column, ...]:
        """An actor's columns."""
        return tuple(column for column in self.columns if column.actor == actor)

    def cell(self, phase: str, column: Column) -> tuple[FaultEntry, ...]:
        """The faults of a cell."""
        return tuple(
            entry
            for entry in self.entries
            if (entry.fault.phase, entry.fault.actor, entry.fault.action) == (phase, column.actor, column.action)
        )

    def count(self, outcome: Outcome) -> int:
        """Faults that came to this."""
        return sum(entry.outcome == outcome for entry in self.entries)


def fault_matrix(report: RunReport) -> FaultMatrix:
    """The matrix of a run; without rows and columns where no fault was put in."""
    entries = tuple(_entry(case, fault) for case in report.cases for fault in case.evidence.faults)
    faults = [entry.fault for entry in entries]
    columns = {Column(fault.actor, fault.action) for fault in faults}
    actors, actions = list(map(str, Actor)), list(map(str, Action))
    return FaultMatrix(
        tuple(_ordered({fault.phase for fault in faults}, list(map(str, Phase)))),
        tuple(
            sorted(
                columns,
                key=lambda column: (*_place(column.actor, actors), *_place(column.action, actions)),
            )
        ),
        entries,
    )


def _ordered(words: set[str], known: Sequence[str]) -> list[str]:
    return sorted(words, key=lambda word: _place(word, known))


def _place(word: str, known: Sequence[str]) -> tuple[int, str]:
    """Known words in their order; others, of a later version, behind them."""
    return (known.index(word) if word in known else len(known), word)


def _entry(case: JudgedCase, fault: FaultSeen) -> FaultEntry:
    names = [other.name for other in case.evidence.faults]
    of_fault = {check.name for check in checks_of(fault.name, names, case.evidence.checks)}
    findings = sorted(
        (finding for finding in case.verdict.findings if finding.about in of_fault),
        key=lambda finding: _WORST.index(finding.outcome),
    )
    outcome = findings[0].outcome if findings else Outcome.INCONCLUSIVE
    return FaultEntry(case.evidence.id, _setting(case), fault, outcome, tuple(findings))


def _setting(case: JudgedCase) -> str:
    given = case.evidence.parameters
    device = {True: "vhost", False: "tap"}.get(given.vhost) if given.vhost is not None else None
    queues = None if given.queues is None else f"x{given.queues}"
    return " ".join(part for part in (device, queues) if part)
