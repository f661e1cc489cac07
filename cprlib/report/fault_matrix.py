"""The fault matrix of a run: phases of the update by actors and actions; each cell says who survived, and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from cprlib.evidence.records import FaultRecord, Outcome
from cprlib.report.formatting import Moment, utc
from cprlib.update.faults import Action, Actor, Phase, Survivor
from cprlib.verdict.findings import Finding, worst_first
from cprlib.verdict.judge import JudgedCase

_OWNS_GUEST = ("running", "paused")  # run states (QAPI RunState) of the QEMU that has the guest


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultCell(FaultRecord):
    """A fault that was put into an update, and the QEMU that survived it.

    :param fault: its name; :param case: id of the case; :param setting: of the case, such as ``vhost x4``.
    :param verdict: of its checks; :param reasons: its findings, without those that passed.
    :param died: when the guest was lost, where no QEMU survives.
    """

    fault: str
    case: str
    setting: str
    verdict: Outcome
    died: Moment | None
    reasons: tuple[Finding, ...]

    @property
    def anchor(self) -> str:
        """Id of its details on the page."""
        return f"fault-{self.case}-{self.name}"

    @property
    def runs_guest(self) -> str:
        """The QEMU that runs the guest afterwards.

        When a check fails: the QEMU that had to run it, and the run state that it has instead.
        """
        if self.verdict == Outcome.PASS:
            states = {"source": self.source_state, "target": self.target_state}
            owners = [qemu for qemu, state in states.items() if state in _OWNS_GUEST]
            return owners[0] if self.survivor == Survivor.EITHER and owners else self.survivor
        return f"{self.survivor}: {self.state}" if self.state else "unknown"

    @property
    def ends_guest(self) -> bool:
        """True when no QEMU can survive this fault with the guest."""
        return self.survivor == Survivor.NEITHER


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what is done, by or to whom."""

    actor: str
    action: str


@dataclass(frozen=True, slots=True)
class FaultTable:
    """Faults that were put into updates: rows are phases in order, columns are actor and action.

    A cell of the table has each fault of its phase, actor and action. Empty when no fault was put in.
    """

    phases: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[FaultCell, ...]

    @property
    def actors(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.actor for column in self.columns))

    def columns_of(self, actor: str) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.actor == actor)

    def cell(self, phase: str, column: Column) -> tuple[FaultCell, ...]:
        key = (phase, column.actor, column.action)
        return tuple(each for each in self.cells if (each.phase, each.actor, each.action) == key)

    def count(self, outcome: Outcome) -> int:
        return sum(each.verdict == outcome for each in self.cells)


def fault_matrix(cases: Iterable[JudgedCase]) -> FaultTable:
    cells = tuple(_cell(case, fault) for case in cases for fault in case.evidence.faults)
    phases, actors, actions = ([str(word) for word in words] for words in (Phase, Actor, Action))
    columns = {Column(fault.actor, fault.action) for fault in cells}
    return FaultTable(
        tuple(sorted({fault.phase for fault in cells}, key=lambda phase: _rank(phase, phases))),
        tuple(sorted(columns, key=lambda column: (_rank(column.actor, actors), _rank(column.action, actions)))),
        cells,
    )


def _rank(word: str, known: Sequence[str]) -> tuple[int, str]:
    """Sort key: known words in their order, then those of a later version of cprlib."""
    return (known.index(word) if word in known else len(known), word)


def _cell(case: JudgedCase, fault: FaultRecord) -> FaultCell:
    checks = {each.name for each in case.evidence.checks if each.fault == fault.name}
    findings = worst_first(finding for finding in case.verdict.findings if finding.about in checks)
    parameters = case.evidence.parameters
    device = {True: "vhost", False: "tap", None: ""}[parameters.vhost]
    queues = "" if parameters.queues is None else f"x{parameters.queues}"
    return FaultCell(
        **asdict(fault),
        fault=fault.name,
        case=case.evidence.id,
        setting=" ".join(filter(None, (device, queues))),
        verdict=findings[0].outcome if findings else Outcome.INCONCLUSIVE,
        died=utc(fault.died_ns),
        reasons=tuple(finding for finding in findings if finding.outcome != Outcome.PASS),
    )
