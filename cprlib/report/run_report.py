"""A run as it is reported: its judged cases, their verdict, the policy and the machine."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import ExitStatus
from cprlib.evidence.case import CaseEvidence, Outcome, QemuFacts
from cprlib.report.environment import Environment
from cprlib.verdict.findings import Verdict
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.policy import Policy

EXIT_STATUS = {
    Outcome.PASS: ExitStatus.PASS,
    Outcome.FAIL: ExitStatus.FAIL,
    Outcome.INCONCLUSIVE: ExitStatus.INCONCLUSIVE,
    Outcome.SKIP: ExitStatus.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run came to.

    :param folder: the results folder.
    :param cases: in the order in which they were started.
    :param command: the command line that made the run, empty when it is not known.
    :param problems: what went wrong with the run as a whole, such as an Avocado job whose results cannot be read.
    """

    folder: Path
    verdict: Verdict
    cases: tuple[JudgedCase, ...]
    policy: Policy
    environment: Environment
    command: str = ""
    problems: tuple[str, ...] = ()

    @property
    def exit_status(self) -> ExitStatus:
        """0, 1 or 3, as ``cprlib run`` ends."""
        return EXIT_STATUS[self.verdict.outcome]

    @property
    def count(self) -> dict[Outcome, int]:
        """Cases by outcome."""
        outcomes = [case.outcome for case in self.cases]
        return {outcome: outcomes.count(outcome) for outcome in Outcome}

    @property
    def sentence(self) -> str:
        """``4 cases: 3 pass, 1 fail``."""
        parts = [f"{number} {outcome}" for outcome, number in self.count.items() if number]
        return f"{len(self.cases)} case{'' if len(self.cases) == 1 else 's'}" + (f": {', '.join(parts)}" * bool(parts))

    @property
    def qemus(self) -> tuple[QemuFacts, ...]:
        """Each QEMU that took part, once."""
        facts = [qemu for case in self.cases for qemu in (case.evidence.source, case.evidence.target) if qemu]
        return tuple(dict.fromkeys(facts))

    @property
    def started_ns(self) -> int | None:
        """When the first case began."""
        return min((case.evidence.started_ns for case in self.cases if case.evidence.started_ns), default=None)

    @property
    def finished_ns(self) -> int | None:
        """When the last case ended."""
        return max((case.evidence.finished_ns for case in self.cases if case.evidence.finished_ns), default=None)

    @property
    def lab_retries(self) -> int:
        """Labs that died: those the spawner counted, or those the cases tell of."""
        return max(self.environment.lab_retries, sum(case.evidence.retries for case in self.cases))


def utc(moment_ns: int | None) -> str | None:
    """A moment as ISO 8601 in UTC, to the millisecond."""
    if moment_ns is None:
        return None
    moment = datetime.datetime.fromtimestamp(moment_ns / 1e9, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(case: CaseEvidence) -> float | None:
    """How long a case took."""
    if case.started_ns is None or case.finished_ns is None:
        return None
    return round((case.finished_ns - case.started_ns) / 1e9, 3)
