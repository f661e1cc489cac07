"""The mutation score: which mutants were killed for the right reason, which survived, and the good build's results.

A mutant is killed when every test that it names failed on it, with the message that it names. Otherwise it survived.
The good build is proven when no test failed on it in any of its runs. The records are those of mutation.json.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cprlib.build.mutants import Mutant
from cprlib.campaign.job import SuiteTest
from cprlib.campaign.mutation.generated import GeneratedReport
from cprlib.campaign.mutation.plan import Build, MutationRequest
from cprlib.campaign.outcome import WITHOUT_ALARM, JobOutcome, JudgedJob
from cprlib.evidence.records import Outcome
from cprlib.report.environment import Environment
from cprlib.report.formatting import utc
from cprlib.report.run_report import EXIT_STATUS
from cprlib.report.schema import SchemaFile
from cprlib.words import counted, listed

SCHEMA: Final = 2  # of mutation.json
WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one test on one build.

    :param must_kill: the build is a mutant that this test has to kill.
    :param message_matches: whether the mutant's message was found; None on the good build.
    :param seconds: of the test, as Avocado reports them.
    :param folder: of the evidence, below the session's folder.
    :param lab_lost: labs that died under it and were replaced.
    :param inputs_changed: an input was edited while the test ran.
    """

    test: str
    outcome: JobOutcome
    must_kill: bool
    message_matches: bool | None
    seconds: float | None
    messages: tuple[str, ...]
    folder: str
    lab_lost: int
    inputs_changed: bool


def make_result(
    build: Build, test: str, judged: JudgedJob, folder: str, lab_lost: int = 0, *, changed: bool = False
) -> Result:
    """The result of a judged job; parameters as in :class:`Result`."""
    matches = judged.matches(build.mutant.message) if build.mutant else None
    must_kill = build.must_kill(test)
    return Result(test, judged.outcome, must_kill, matches, judged.seconds, judged.messages, folder, lab_lost, changed)


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence: why a mutant survived, or why the good build is not proven."""

    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class UsedBinary:
    """A QEMU; both empty when it was not built."""

    path: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Kill:
    """A test that failed on the build.

    :param message: the one that fits the mutant's pattern, else the first.
    """

    test: str
    seconds: float | None
    message: str


@dataclass(frozen=True, slots=True)
class BuildResults:
    """A build with its results.

    :param kind: ``good`` or ``mutant``.
    :param run: of the good build, from 1; None for a mutant.
    :param verdict: pass for a killed mutant, or a good build without alarm.
    :param reasons: why it is not as it must be, the worst first.
    :param message: pattern of the message that kills the mutant.
    :param killed_by: tests that must kill it first, then the quickest.
    :param not_run: planned tests without result.
    """

    kind: str
    name: str
    run: int | None
    verdict: Outcome
    reasons: tuple[Reason, ...]
    title: str
    description: str
    leaves_out: tuple[str, ...]
    patches: tuple[str, ...]
    must_be_killed_by: tuple[str, ...]
    message: str
    qemu: UsedBinary
    killed_by: tuple[Kill, ...]
    not_run: tuple[str, ...]
    results: tuple[Result, ...]

    @property
    def is_mutant(self) -> bool:
        """False for the good build."""
        return self.kind == "mutant"

    @property
    def planned(self) -> int:
        """Number of tests to run on it."""
        return len(self.results) + len(self.not_run)

    def result(self, test: str) -> Result | None:
        """Of a test; None when it did not run."""
        return next((result for result in self.results if result.test == test), None)


def build_results(
    build: Build,
    planned: Sequence[str],
    results: Sequence[Result],
    qemu: UsedBinary = UsedBinary(),
    problem: str = "",
) -> BuildResults:
    """A build with its results and what follows from them.

    :param planned: ids of the tests to run on it.
    :param problem: why there is no binary.
    """
    mutant, message = build.mutant, build.mutant.message if build.mutant else ""
    by_test = {result.test: result for result in results}
    failed = sorted(
        (result for result in results if result.outcome == JobOutcome.FAILED),
        key=lambda item: (not item.must_kill, item.seconds or math.inf, item.test),
    )
    if problem:
        reasons = [Reason(Outcome.FAIL, f"not built: {problem}")]
    else:
        found = _survived(mutant, by_test, failed) if mutant else _alarms(planned, by_test)
        reasons = sorted(found, key=lambda reason: WORST_FIRST.index(reason.outcome))
    return BuildResults(
        kind="mutant" if mutant else "good",
        name=build.name,
        run=None if mutant else build.run,
        verdict=reasons[0].outcome if reasons else Outcome.PASS,
        reasons=tuple(reasons),
        title=mutant.subject if mutant else "",
        description=mutant.body if mutant else "",
        leaves_out=mutant.leaves_out if mutant else (),
        patches=tuple(path.name for path in mutant.patches) if mutant else (),
        must_be_killed_by=mutant.killed_by if mutant else (),
        message=message,
        qemu=qemu,
        killed_by=tuple(Kill(item.test, item.seconds, fitting_message(item.messages, message)) for item in failed),
        not_run=tuple(test for test in planned if test not in by_test),
        results=tuple(results),
    )


def fitting_message(messages: Sequence[str], pattern: str) -> str:
    """The first message that fits the mutant's pattern, else the first one; empty without messages."""
    return next((text for text in messages if pattern and re.search(pattern, text)), messages[0] if messages else "")


@dataclass(frozen=True, slots=True)
class MutationReport:
    """The results of a mutation run.

    :param schema: of mutation.json, :data:`SCHEMA`.
    :param verdict: the worst build's; inconclusive at best without a mutant or without the good build.
    :param mutants, killed: the mutation score is ``killed`` of ``mutants``.
    :param tests_per_mutant: ``all``, ``killed_by``, or ``reaching`` for generated mutants.
    :param engine: of the lab; None when run natively.
    :param lab_lost: labs that died and were replaced.
    :param notes: worth knowing, without effect on the verdict.
    :param builds: good build first.
    :param generated: the generated mutants, in a run with them; else None.
    """

    schema: Literal[2]
    verdict: Outcome
    exit_status: int
    mutants: int
    killed: int
    base: str
    tests_per_mutant: str
    engine: str | None
    command: str
    started: str | None
    finished: str | None
    environment: Environment
    lab_lost: int
    notes: tuple[str, ...]
    tests: tuple[SuiteTest, ...]
    builds: tuple[BuildResults, ...]
    generated: GeneratedReport | None = None

    @property
    def sentence(self) -> str:
        """``mutation score 11 of 12; good build: 80 of 80 tests without false alarm``."""
        good = [item for item in self.builds if not item.is_mutant]
        quiet = sum(result.outcome in WITHOUT_ALARM for item in good for result in item.results)
        planned = sum(item.planned for item in good)
        runs = f" in {len(good)} runs" if len(good) > 1 else ""
        score = self.generated.sentence if self.generated else f"mutation score {self.killed} of {self.mutants}"
        return f"{score}; good build: {quiet} of {planned} tests without false alarm{runs}"


MUTATION_SCHEMA_FILE = SchemaFile("mutation", SCHEMA, MutationReport)


def make_report(
    builds: Sequence[BuildResults],
    tests: Sequence[SuiteTest],
    request: MutationRequest,
    environment: Environment,
    generated: GeneratedReport | None = None,
) -> MutationReport:
    """The report of a run that ends now.

    :param builds: good build first.
    :param tests: that were planned on any build.
    :param generated: of a run with generated mutants, whose good build is the QEMU that has them all.
    """
    mutants = [item for item in builds if item.is_mutant]
    outcomes = [item.verdict for item in builds]
    if generated:
        outcomes.append(generated.verdict)
    elif not 0 < len(mutants) < len(builds):
        outcomes.append(Outcome.INCONCLUSIVE)
    verdict = min(outcomes, key=WORST_FIRST.index)
    results = [result for item in builds for result in item.results]
    changed, lost = sum(result.inputs_changed for result in results), sum(result.lab_lost for result in results)
    notes = []
    if changed:
        notes.append(f"{counted(changed, 'test')} ran while the project was edited; run again with --resume")
    if lost:
        notes.append(f"replaced {counted(lost, 'lab')} that died")
    return MutationReport(
        schema=SCHEMA,
        verdict=verdict,
        exit_status=int(EXIT_STATUS[verdict]),
        mutants=generated.total.counted if generated else len(mutants),
        killed=generated.total.killed if generated else sum(item.verdict == Outcome.PASS for item in mutants),
        base=request.base,
        tests_per_mutant="reaching" if generated else "all" if request.whole else "killed_by",
        engine=request.engine,
        command=request.command,
        started=utc(request.started_ns or None),
        finished=utc(time.time_ns()),
        environment=environment,
        lab_lost=lost,
        notes=tuple(notes),
        tests=tuple(tests),
        builds=tuple(builds),
        generated=generated,
    )


def _alarms(planned: Iterable[str], results: Mapping[str, Result]) -> Iterable[Reason]:
    for test in planned:
        result = results.get(test)
        if result is None:
            yield Reason(Outcome.INCONCLUSIVE, f"{test} did not run")
            continue
        text = _first_message(result)
        match result.outcome:
            case JobOutcome.FAILED:
                yield Reason(Outcome.FAIL, f"false alarm of {test}: {text}")
            case JobOutcome.CRASHED:
                yield Reason(Outcome.INCONCLUSIVE, f"{test} crashed: {text}")
            case JobOutcome.INCONCLUSIVE:
                yield Reason(Outcome.INCONCLUSIVE, f"{test} is inconclusive: {text}")
            case _:
                pass


def _survived(mutant: Mutant, results: Mapping[str, Result], failed: Iterable[Result]) -> Iterable[Reason]:
    others = [result.test for result in failed if not result.must_kill]
    instead = f"; killed by {listed(others, 3, ', ')}" if others else ""
    for test in mutant.killed_by:
        result = results.get(test)
        if result is None:
            yield Reason(Outcome.FAIL, f"survived: {test}, which must kill it, did not run{instead}")
            continue
        text = _first_message(result)
        match result.outcome:
            case JobOutcome.FAILED:
                if not result.message_matches:
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
    messages = result.messages
    return f"{messages[0]}{f' (and {len(messages) - 1} more)' if messages[1:] else ''}" if messages else "no reason"
