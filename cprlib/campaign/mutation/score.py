"""The mutation score: which mutants were killed for the right reason, which survived, and the good build's results.

A mutant is killed when every test that it names failed on it, with the message that it names. Otherwise it survived.
The good build is proven when no test failed on it in any of its runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib.build.mutants import Mutant
from cprlib.campaign.mutation.plan import Build
from cprlib.campaign.outcome import QUIET, JobOutcome, JudgedJob
from cprlib.errors import ExitStatus
from cprlib.evidence.records import Outcome
from cprlib.report.environment import Environment
from cprlib.report.run_report import EXIT_STATUS

WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one test on one build.

    :param folder: of its evidence, below the folder of the session.
    :param lab_lost: labs that died under it and were replaced.
    :param changed: an input was edited while it ran.
    """

    test: str
    judged: JudgedJob
    folder: str
    lab_lost: int = 0
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence: why a mutant survived, or why the good build is not proven."""

    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class BuildResults:
    """A build and the results of its tests.

    :param planned: ids of the tests to run on it.
    :param results: by the test's id; a test that never ran is missing.
    :param qemu, sha256: the binary; empty when it was not built.
    :param problem: why there is no binary.
    """

    build: Build
    planned: tuple[str, ...]
    results: Mapping[str, Result]
    qemu: str = ""
    sha256: str = ""
    problem: str = ""

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it is not as it must be, the worst first."""
        if self.problem:
            return (Reason(Outcome.FAIL, f"not built: {self.problem}"),)
        found = _survived(self, self.build.mutant) if self.build.mutant else _alarms(self)
        return tuple(sorted(found, key=lambda reason: WORST_FIRST.index(reason.outcome)))

    @property
    def outcome(self) -> Outcome:
        """Pass: a killed mutant, or a good build without alarm."""
        return min((reason.outcome for reason in self.reasons), key=WORST_FIRST.index, default=Outcome.PASS)

    @property
    def failed(self) -> tuple[Result, ...]:
        """Results of tests that failed on it: those that must kill it first, then the quickest."""
        found = [result for result in self.results.values() if result.judged.outcome == JobOutcome.FAILED]
        must = self.build.must_kill
        found.sort(key=lambda item: (not must(item.test), item.judged.seconds or math.inf, item.test))
        return tuple(found)

    def message(self, result: Result) -> str:
        """The message that fits the mutant's pattern, else the first one."""
        if self.build.mutant:
            for text in result.judged.messages:
                if JudgedJob(JobOutcome.FAILED, (text,)).matches(self.build.mutant.message):
                    return text
        return result.judged.messages[0] if result.judged.messages else ""


@dataclass(frozen=True, slots=True)
class MutationReport:
    """The results of a mutation run.

    :param builds: good build first.
    :param tests: ids of the tests with their references.
    :param whole: every test ran on every build; else on a mutant only those that must kill it.
    :param notes: worth knowing, without effect on the verdict.
    """

    folder: Path
    builds: tuple[BuildResults, ...]
    tests: Mapping[str, str]
    base: str
    whole: bool
    engine: str
    environment: Environment
    command: str = ""
    started_ns: int | None = None
    finished_ns: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst build's; without a mutant or without the good build nothing is proven."""
        outcomes = [item.outcome for item in self.builds]
        if not self.mutants or not self.good:
            outcomes.append(Outcome.INCONCLUSIVE)
        return min(outcomes, key=WORST_FIRST.index)

    @property
    def exit_status(self) -> ExitStatus:
        """0, 1 or 3."""
        return EXIT_STATUS[self.outcome]

    @property
    def mutants(self) -> tuple[BuildResults, ...]:
        """Results of the mutants."""
        return tuple(item for item in self.builds if item.build.mutant)

    @property
    def good(self) -> tuple[BuildResults, ...]:
        """Results of the good build."""
        return tuple(item for item in self.builds if not item.build.mutant)

    @property
    def killed(self) -> int:
        """Number of killed mutants."""
        return sum(item.outcome == Outcome.PASS for item in self.mutants)

    @property
    def lab_lost(self) -> int:
        """Labs that died and were replaced."""
        return sum(result.lab_lost for item in self.builds for result in item.results.values())

    @property
    def sentence(self) -> str:
        """``mutation score 11 of 12; good build: 80 of 80 tests without false alarm``."""
        results = [result for item in self.good for result in item.results.values()]
        quiet = sum(result.judged.outcome in QUIET for result in results)
        planned = sum(len(item.planned) for item in self.good)
        runs = f" in {len(self.good)} runs" if len(self.good) > 1 else ""
        return (
            f"mutation score {self.killed} of {len(self.mutants)}; "
            f"good build: {quiet} of {planned} tests without false alarm{runs}"
        )


def _alarms(item: BuildResults) -> Iterable[Reason]:
    for test in item.planned:
        result = item.results.get(test)
        if result is None:
            yield Reason(Outcome.INCONCLUSIVE, f"{test} did not run")
            continue
        text = _first_message(result)
        match result.judged.outcome:
            case JobOutcome.FAILED:
                yield Reason(Outcome.FAIL, f"false alarm of {test}: {text}")
            case JobOutcome.CRASHED:
                yield Reason(Outcome.INCONCLUSIVE, f"{test} crashed: {text}")
            case JobOutcome.INCONCLUSIVE:
                yield Reason(Outcome.INCONCLUSIVE, f"{test} is inconclusive: {text}")
            case _:
                pass


def _survived(item: BuildResults, mutant: Mutant) -> Iterable[Reason]:
    others = [result.test for result in item.failed if result.test not in mutant.killed_by]
    instead = f"; killed by {', '.join(others[:3])}{' and more' if others[3:] else ''}" if others else ""
    for test in mutant.killed_by:
        result = item.results.get(test)
        if result is None:
            yield Reason(Outcome.FAIL, f"survived: {test}, which must kill it, did not run{instead}")
            continue
        text = _first_message(result)
        match result.judged.outcome:
            case JobOutcome.FAILED:
                if not result.judged.matches(mutant.message):
                    yield Reason(Outcome.FAIL, f"{test} fails with another message than /{mutant.message}/: {text}")
            case JobOutcome.PASSED:
                yield Reason(Outcome.FAIL, f"survived {test}, which must kill it{instead}")
            case JobOutcome.CRASHED:
                only = "" if others else "; a crash of the harness kills no mutant"
                yield Reason(Outcome.FAIL, f"{test}, which must kill it, crashed: {text}{only}{instead}")
            case other:
                word = "is inconclusive" if other == JobOutcome.INCONCLUSIVE else "was skipped"
                yield Reason(Outcome.FAIL, f"{test}, which must kill it, {word}: {text}{instead}")


def _first_message(result: Result) -> str:
    messages = result.judged.messages
    return f"{messages[0]}{f' (and {len(messages) - 1} more)' if messages[1:] else ''}" if messages else "no reason"
