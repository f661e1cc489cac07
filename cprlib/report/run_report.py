"""The report of a run as data: judged cases, verdict, policy, environment, and how to repeat a case."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import ExitStatus
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.qemu.facts import QemuFacts
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

_FLAGS = ("--native", "--lab")  # options of `cprlib run` that may stand without a value
_SELECTION_OPTIONS = ("-t", "--tag", "--out", "--parallel", "--matrix", "--points", "--shard")
_TEST_ARGUMENT = re.compile(r"(?!-)(.+\.py(:.*)?|(.*/)?tests/functional/?)")


@dataclass(frozen=True, slots=True)
class RunReport:
    """A judged run.

    :param folder: the results folder.
    :param cases: in the order in which they started.
    :param command: the command line of the run; empty when it is unknown.
    :param problems: of the run as a whole, such as an Avocado job without results.
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
        """The exit status of ``cprlib run``: 0, 1 or 3."""
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
        """A command line that runs one case again; see :func:`rerun_command`."""
        return rerun_command(self.command, case.reproduce)


def seconds_of(case: CaseEvidence) -> float | None:
    """Duration of a case in s."""
    if case.started_ns is None or case.finished_ns is None:
        return None
    return round((case.finished_ns - case.started_ns) / 1e9, 3)


def rerun_command(run: str, case: str) -> str:
    """Replace the tests in a run's command line by one case; keep its QEMU, parameters and policy.

    :param run: command line of the whole run: ``cprlib run --qemu PATH -p rate=500 -t vhost:on``; may be empty.
    :param case: command line in the case's evidence: ``cprlib run FILE:CLASS.METHOD``; may be empty.
    :returns: a command line to paste; ``case`` when ``run`` is unknown or not a ``cprlib run``.
    """
    try:
        run_words, case_words = shlex.split(run), shlex.split(case)
    except ValueError:
        return case
    if run_words[:2] != ["cprlib", "run"] or case_words[:2] != ["cprlib", "run"]:
        return case
    kept: list[str] = []
    rest = run_words[2:]
    while rest:
        word = rest.pop(0)
        value = [rest.pop(0)] if rest and _takes_value(word) else []
        if word.partition("=")[0] in _SELECTION_OPTIONS or (
            not word.startswith("-") and _TEST_ARGUMENT.fullmatch(word)
        ):
            continue
        kept += [word, *value]
    return shlex.join(["cprlib", "run", *kept, *case_words[2:]])


def _takes_value(word: str) -> bool:
    """True when the next word is this option's value; not for ``--out=/x`` and ``-prate=5``."""
    return word.startswith("-") and "=" not in word and word not in _FLAGS and (word[:2] == "--" or len(word) == 2)
