"""The report of a run as data: judged cases, verdict, causes, patches, policy, environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import ExitStatus
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.qemu.facts import QemuFacts
from cprlib.report.environment import Environment
from cprlib.report.finding_groups import FindingGroup
from cprlib.report.rerun import rerun_command
from cprlib.report.series_coverage import PatchResult
from cprlib.verdict.findings import Verdict
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.policy import Policy
from cprlib.verdict.traffic_rules import counted

EXIT_STATUS = {
    Outcome.PASS: ExitStatus.PASS,
    Outcome.FAIL: ExitStatus.FAIL,
    Outcome.INCONCLUSIVE: ExitStatus.INCONCLUSIVE,
    Outcome.SKIP: ExitStatus.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True)
class RunReport:
    """A judged run.

    :param folder: the results folder.
    :param cases: in the order in which they started.
    :param command: the command line of the run; empty when it is unknown.
    :param problems: of the run as a whole, such as an Avocado job without results.
    :param groups: the findings that decided, by cause over all cases; the worst first.
    :param patches: what the cases show of each patch of the series.
    """

    folder: Path
    verdict: Verdict
    cases: tuple[JudgedCase, ...]
    policy: Policy
    environment: Environment
    command: str = ""
    problems: tuple[str, ...] = ()
    groups: tuple[FindingGroup, ...] = ()
    patches: tuple[PatchResult, ...] = ()

    @property
    def exit_status(self) -> ExitStatus:
        """The exit status of ``cprlib run``: 0, 1 or 3."""
        return EXIT_STATUS[self.verdict.outcome]

    @property
    def own_reasons(self) -> tuple[str, ...]:
        """Why the run has its verdict, beside its cases: no case ran, a mechanism was skipped, a shard is missing."""
        known = {case.evidence.id for case in self.cases}
        others = (finding.text for finding in self.verdict.reasons if finding.about not in known)
        return tuple(dict.fromkeys((*self.problems, *others)))

    @property
    def count(self) -> dict[Outcome, int]:
        """Cases by outcome."""
        outcomes = [case.outcome for case in self.cases]
        return {outcome: outcomes.count(outcome) for outcome in Outcome}

    @property
    def sentence(self) -> str:
        """``4 cases: 3 pass, 1 fail``."""
        parts = [f"{number} {outcome}" for outcome, number in self.count.items() if number]
        return counted(len(self.cases), "case") + (f": {', '.join(parts)}" * bool(parts))

    @property
    def to_repeat(self) -> tuple[JudgedCase, ...]:
        """The cases of each test that was inconclusive and failed in no case: never one that accuses QEMU."""
        outcomes: dict[str, set[Outcome]] = {}
        for case in self.cases:
            outcomes.setdefault(case.evidence.test, set()).add(case.outcome)
        wanted = {test for test, seen in outcomes.items() if Outcome.INCONCLUSIVE in seen and Outcome.FAIL not in seen}
        return tuple(case for case in self.cases if case.evidence.test in wanted - {""})

    @property
    def qemus(self) -> tuple[QemuFacts, ...]:
        """Every source and target QEMU, each once."""
        facts = [qemu for case in self.cases for qemu in (case.evidence.source, case.evidence.target) if qemu]
        return tuple(dict.fromkeys(facts))

    @property
    def started_ns(self) -> int | None:
        """Start of the first case."""
        return min((case.evidence.started_ns for case in self.cases if case.evidence.started_ns), default=None)

    @property
    def finished_ns(self) -> int | None:
        """End of the last case."""
        return max((case.evidence.finished_ns for case in self.cases if case.evidence.finished_ns), default=None)

    @property
    def lab_retries(self) -> int:
        """Labs that died, as counted by the spawner or by the cases."""
        return max(self.environment.lab_retries, sum(case.evidence.retries for case in self.cases))

    def rerun_command(self, case: CaseEvidence) -> str:
        """A command line that runs one case again; see :func:`cprlib.report.rerun.rerun_command`."""
        return rerun_command(self.command, case.reproduce)
