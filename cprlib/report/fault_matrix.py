"""The fault matrix of a run: phases of the update by actors and actions; each cell says who survived, and when."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from cprlib.evidence.records import FaultRecord, Outcome
from cprlib.report.formatting import Moment, utc
from cprlib.update.faults import Action, Actor, Fault, Phase, Survivor
from cprlib.verdict.findings import Finding, worst_first
from cprlib.verdict.judge import JudgedCase

CONDITIONS = {  # a field of the fault that is true: what it means
    "return_path": "with a return path",
    "unnoticed": "the source treats the update as complete",
    "exits": "the target has to refuse",
}
_OWNS_GUEST = ("running", "paused")  # run states (QAPI RunState) of the QEMU that has the guest


@dataclass(frozen=True, slots=True)
class FaultCell:
    """A fault that was put into an update, and the QEMU that survived it.

    :param record: of the case's evidence; :param case: its id; :param setting: of the case, such as ``vhost x4``.
    :param verdict: of its checks; :param reasons: its findings, without those that passed.
    :param died: when the guest was lost, where no QEMU survives.
    """

    record: FaultRecord
    case: str
    setting: str
    verdict: Outcome
    died: Moment | None
    reasons: tuple[Finding, ...]

    @property
    def fault(self) -> Fault:
        return self.record.fault

    @property
    def conditions(self) -> tuple[str, ...]:
        """Other differences from an ordinary update."""
        return tuple(words for name, words in CONDITIONS.items() if getattr(self.fault, name))

    @property
    def anchor(self) -> str:
        """Id of its details on the page."""
        return f"fault-{self.case}-{self.fault.name}"

    @property
    def runs_guest(self) -> str:
        """The QEMU that runs the guest afterwards.

        When a check fails: the QEMU that had to run it, and the run state that it has instead.
        """
        if self.verdict == Outcome.PASS:
            states = {"source": self.record.source_state, "target": self.record.target_state}
            owners = [qemu for qemu, state in states.items() if state in _OWNS_GUEST]
            return owners[0] if self.fault.survivor is Survivor.EITHER and owners else self.fault.survivor
        return f"{self.fault.survivor}: {self.record.state}" if self.record.state else "unknown"

    @property
    def column(self) -> Column:
        return Column(self.fault.actor, self.fault.action)

    @property
    def ends_guest(self) -> bool:
        """True when no QEMU can survive this fault with the guest."""
        return self.fault.survivor is Survivor.NEITHER


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what is done, by or to whom."""

    actor: Actor
    action: Action


@dataclass(frozen=True, slots=True)
class FaultTable:
    """Faults that were put into updates: rows are phases in order, columns are actor and action.

    A cell of the table has each fault of its phase, actor and action. Empty when no fault was put in.
    """

    phases: tuple[Phase, ...]
    columns: tuple[Column, ...]
    cells: tuple[FaultCell, ...]

    @property
    def actors(self) -> tuple[Actor, ...]:
        return tuple(dict.fromkeys(column.actor for column in self.columns))

    def columns_of(self, actor: Actor) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.actor == actor)

    def cell(self, phase: Phase, column: Column) -> tuple[FaultCell, ...]:
        return tuple(each for each in self.cells if each.fault.phase is phase and each.column == column)

    def count(self, outcome: Outcome) -> int:
        return sum(each.verdict == outcome for each in self.cells)


def fault_matrix(cases: Iterable[JudgedCase]) -> FaultTable:
    cells = tuple(_cell(case, record) for case in cases for record in case.evidence.faults)
    phases, columns = {cell.fault.phase for cell in cells}, {cell.column for cell in cells}
    return FaultTable(
        tuple(phase for phase in Phase if phase in phases),
        tuple(column for column in (Column(*pair) for pair in itertools.product(Actor, Action)) if column in columns),
        cells,
    )


def _cell(case: JudgedCase, record: FaultRecord) -> FaultCell:
    checks = {each.name for each in case.evidence.checks if each.fault == record.fault.name}
    findings = worst_first(finding for finding in case.verdict.findings if finding.about in checks)
    parameters = case.evidence.parameters
    device = {True: "vhost", False: "tap", None: ""}[parameters.vhost]
    queues = "" if parameters.queues is None else f"x{parameters.queues}"
    return FaultCell(
        record=record,
        case=case.evidence.id,
        setting=" ".join(filter(None, (device, queues))),
        verdict=findings[0].outcome if findings else Outcome.INCONCLUSIVE,
        died=utc(record.died_ns),
        reasons=tuple(finding for finding in findings if finding.outcome != Outcome.PASS),
    )
