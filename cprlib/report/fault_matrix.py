"""The fault matrix of a run: phases of the update by actors and actions; each cell says who survived, and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cprlib.evidence.records import Check, FaultRecord, Outcome
from cprlib.report.formatting import utc
from cprlib.report.run_report import RunReport
from cprlib.update.faults import Action, Actor, Phase, Survivor
from cprlib.verdict.findings import Finding, worst_first
from cprlib.verdict.judge import JudgedCase

_OWNS_GUEST = ("running", "paused")  # run states (QAPI RunState) of the QEMU that has the guest


@dataclass(frozen=True, slots=True)
class FaultEntry:
    """One fault in one case.

    :param setting: the case's NIC in short: ``vhost x4`` is vhost-net with four queue pairs.
    :param outcome: the worst of its checks, as the policy judges them; inconclusive when it has none.
    :param findings: of its checks, the worst first.
    """

    case: str
    setting: str
    fault: FaultRecord
    outcome: Outcome
    findings: tuple[Finding, ...]

    @property
    def anchor(self) -> str:
        """Id of its details on the page."""
        return f"fault-{self.case}-{self.fault.name}"

    @property
    def survivor(self) -> str:
        """The QEMU that runs the guest afterwards.

        When a check fails: the QEMU that had to run it, and the run state that it has instead.
        """
        fault = self.fault
        if self.outcome == Outcome.PASS:
            states = {"source": fault.source_state, "target": fault.target_state}
            owners = [qemu for qemu, state in states.items() if state in _OWNS_GUEST]
            return owners[0] if fault.survivor == Survivor.ONE and owners else fault.survivor
        return f"{fault.survivor}: {fault.state}" if fault.state else "unknown"

    @property
    def ends_guest(self) -> bool:
        """True when no QEMU can survive this fault with the guest."""
        return self.fault.survivor == Survivor.NEITHER

    @property
    def died(self) -> str | None:
        """Time of death, ISO 8601 in UTC, of a guest that no QEMU can keep."""
        return utc(self.fault.died_ns)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what is done, by or to whom."""

    actor: str
    action: str


@dataclass(frozen=True, slots=True)
class FaultMatrix:
    """All faults of a run.

    :param phases: rows, in the order of an update.
    :param columns: in the order of :class:`Actor` and :class:`Action`.
    """

    phases: tuple[str, ...]
    columns: tuple[Column, ...]
    entries: tuple[FaultEntry, ...]

    @property
    def actors(self) -> tuple[str, ...]:
        """Actors that have columns."""
        return tuple(dict.fromkeys(column.actor for column in self.columns))

    def columns_of(self, actor: str) -> tuple[Column, ...]:
        """The columns of one actor."""
        return tuple(column for column in self.columns if column.actor == actor)

    def cell(self, phase: str, column: Column) -> tuple[FaultEntry, ...]:
        """The faults of one cell."""
        key = (phase, column.actor, column.action)
        return tuple(
            entry for entry in self.entries if (entry.fault.phase, entry.fault.actor, entry.fault.action) == key
        )

    def count(self, outcome: Outcome) -> int:
        """Number of faults with this outcome."""
        return sum(entry.outcome == outcome for entry in self.entries)


def fault_matrix(report: RunReport) -> FaultMatrix:
    """Build the matrix of a run; it is empty when no fault was injected."""
    entries = tuple(_entry(case, fault) for case in report.cases for fault in case.evidence.faults)
    faults = [entry.fault for entry in entries]
    phases, actors, actions = ([str(word) for word in words] for words in (Phase, Actor, Action))
    columns = {Column(fault.actor, fault.action) for fault in faults}
    return FaultMatrix(
        tuple(sorted({fault.phase for fault in faults}, key=lambda phase: _rank(phase, phases))),
        tuple(sorted(columns, key=lambda column: (_rank(column.actor, actors), _rank(column.action, actions)))),
        entries,
    )


def _rank(word: str, known: Sequence[str]) -> tuple[int, str]:
    """Sort key: known words in their order, then those of a later version of cprlib."""
    return (known.index(word) if word in known else len(known), word)


def checks_of(fault: str, names: Iterable[str], checks: Sequence[Check]) -> tuple[Check, ...]:
    """The checks of a fault: those whose names begin with its own, and with no longer name of another fault.

    :param names: of all faults of the case.
    """
    longer = [f"{name}-" for name in names if name.startswith(f"{fault}-")]
    return tuple(
        check
        for check in checks
        if check.name.startswith(f"{fault}-") and not any(check.name.startswith(name) for name in longer)
    )


def _entry(case: JudgedCase, fault: FaultRecord) -> FaultEntry:
    names = [other.name for other in case.evidence.faults]
    checks = {check.name for check in checks_of(fault.name, names, case.evidence.checks)}
    findings = worst_first(finding for finding in case.verdict.findings if finding.about in checks)
    outcome = findings[0].outcome if findings else Outcome.INCONCLUSIVE
    return FaultEntry(case.evidence.id, _setting(case), fault, outcome, tuple(findings))


def _setting(case: JudgedCase) -> str:
    parameters = case.evidence.parameters
    device = {True: "vhost", False: "tap", None: ""}[parameters.vhost]
    queues = "" if parameters.queues is None else f"x{parameters.queues}"
    return " ".join(filter(None, (device, queues)))
