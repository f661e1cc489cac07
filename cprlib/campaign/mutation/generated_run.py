"""Run the tests of generated mutants: those that reach a mutant, until one kills it.

First every test runs once without a mutant, on the QEMU that has them all. That shows which mutants it reaches. A test
that does not pass then kills nothing, and what it reaches is inconclusive unless another test kills it. A mutant takes
its tests one after another, several mutants run at once.

A mutant that :data:`ALONE` tests did not kill is seldom killed by the next test. That test runs on a group of such
mutants in one QEMU. When it passes, it counts as passed for each mutant that it reached; otherwise it runs on the
halves of the group. The mutants of a group are of different functions: one can hide another of the same function.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cprlib import files
from cprlib.build.generated_mutants import GeneratedMutant
from cprlib.build.mutated_qemu import build_mutated
from cprlib.build.progress import Progress, seconds_text
from cprlib.campaign.job import SuiteTest
from cprlib.campaign.mutation.generated import (
    ChosenMutants,
    GeneratedResult,
    MutantState,
    choose_generated,
    generated_report,
    killers_text,
    load_equivalent,
    load_killers,
    mutant_digest,
)
from cprlib.campaign.mutation.output import write_report
from cprlib.campaign.mutation.plan import STORE, Build, MutationRequest, PlannedBuild
from cprlib.campaign.mutation.run import BuiltQemu, MutationJobs, described_build, load_policies, read_results
from cprlib.campaign.mutation.score import MutationReport, make_report
from cprlib.campaign.outcome import JobOutcome, JudgedJob
from cprlib.campaign.pool import Task
from cprlib.campaign.progress import ProgressLines
from cprlib.campaign.session import open_session
from cprlib.report.formatting import one_line
from cprlib.report.patch_results import patch_number, read_test_sources, suite_key

NONE_CHOSEN = Build(numbers=(0,))
SHORTEST_S = 1.0  # of a test, for the order: a test without time must not run first for that
ALONE = 3  # tests that run on a mutant before it joins a group
GROUP = 8  # mutants
SHARE_OF_KNOWN = 0.95  # that the test that killed a mutant in an earlier run kills again
SHARE_OF_OWN, SHARE_OF_OTHERS = 0.5, 0.1  # of mutants that a test kills, before any is known: of its patches, of others


@dataclass(slots=True)
class RunningMutant:
    """A mutant that runs.

    :param reaching: tests to run on it, by id. :param jobs: what ran, by the id of the test.
    :param unproven: results without a mutant of the tests that reach it and did not pass, by the id of the test.
    :param tag: of the tests of its patch. :param killer: id of the test that killed it in an earlier run.
    :param hidden: ids of tests that did not reach it in a group. :param running: a test runs on it or is about to.
    """

    mutant: GeneratedMutant
    reaching: Mapping[str, SuiteTest]
    unproven: Mapping[str, JudgedJob]
    tag: str
    killer: str
    jobs: dict[str, JudgedJob] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    running: bool = False

    @property
    def left(self) -> list[SuiteTest]:
        return [test for test in self.reaching.values() if test.id not in self.jobs]

    def may_join(self, test: SuiteTest) -> bool:
        """Whether it may run with others."""
        is_left = test.id in self.reaching and test.id not in self.jobs
        return len(self.jobs) >= ALONE and is_left and test.id not in self.hidden

    @property
    def state(self) -> MutantState:
        if any(job.outcome == JobOutcome.FAILED for job in self.jobs.values()):
            return MutantState.KILLED
        if self.left:
            return MutantState.NOT_RUN
        if self.unproven or not all(job.decides for job in self.jobs.values()):
            return MutantState.INCONCLUSIVE
        return MutantState.SURVIVED if self.reaching else MutantState.NOT_REACHED


@dataclass(slots=True)
class GeneratedStrategy:
    """See :class:`cprlib.campaign.pool.Strategy`.

    The next mutant is one with the fewest tests so far, so most are killed early and an interrupted run has nearly the
    score of a whole one. Of these it is the one with the lowest expected cost of a kill, and so is its test: the
    duration without a mutant, divided by the share of mutants of this function, or of this patch, that the test has
    killed so far.

    :param tags: of each test, by its id; ``patch:9`` for a patch that it is for.
    :param known: the test that killed a mutant in an earlier run, by the digest of the mutant.
    :param seconds: no test begins after this time.
    """

    chosen: ChosenMutants
    tests: Sequence[SuiteTest]
    work: MutationJobs
    built: BuiltQemu
    lines: ProgressLines
    tags: Mapping[str, Collection[str]] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)
    seconds: float = math.inf
    _begun: int = 0  # tests that began without a mutant, or are stored
    _baseline: dict[str, JudgedJob] = field(default_factory=dict)
    _mutants: list[RunningMutant] | None = None
    _killed: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)  # by place, and test
    _run: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    _halves: list[tuple[SuiteTest, list[RunningMutant]]] = field(default_factory=list)  # of groups that did not pass

    def next(self, running: int) -> Task | None:
        if self.lines.elapsed > self.seconds:
            return None
        for test in self.tests[self._begun :]:
            self._begun += 1
            if not self.work.adopt(NONE_CHOSEN, self.built, test):
                run = functools.partial(self.work.run, NONE_CHOSEN, self.built, test)
                return Task(run, functools.partial(self._add_baseline, test))
            self._baseline[test.id] = self.work.judge(NONE_CHOSEN, test)
        if self._mutants is None:
            if running:
                return None  # a test without a mutant
            self._mutants = self._reached()
        if self._halves:
            return self._task(*self._halves.pop())
        waiting = [item for item in self._mutants if not item.running and item.state == MutantState.NOT_RUN]
        waiting.sort(key=lambda item: len(item.jobs))
        first = [item for item in waiting if len(item.jobs) == len(waiting[0].jobs)]
        item = min(first, key=lambda item: min(self._price(item, test) for test in item.left), default=None)
        return self._task(*self._next_of(item, waiting)) if item else None

    def results(self) -> list[GeneratedResult]:
        if self._mutants is None:  # which tests reach them is not known
            return [GeneratedResult(mutant, MutantState.NOT_RUN) for mutant in self.chosen.to_run]
        return [_result(item) for item in self._mutants]

    def _add_baseline(self, test: SuiteTest, judged: JudgedJob | None) -> None:
        if judged is None:
            return
        self._baseline[test.id] = judged
        reason = f": {judged.messages[0]}" if judged.messages else ""
        done = f"{len(self._baseline)}/{len(self.tests)}"
        self.lines.line(f"{done} without a mutant, {test.id}: {judged.outcome}{reason}")

    def _reached(self) -> list[RunningMutant]:
        """The mutants with the tests that reach them."""
        reaching: dict[int, dict[str, SuiteTest]] = collections.defaultdict(dict)
        unproven: dict[int, dict[str, JudgedJob]] = collections.defaultdict(dict)
        for test in self.tests:
            if judged := self._baseline.get(test.id):
                for number in reached_numbers(self.work.final(NONE_CHOSEN, test)):
                    if judged.outcome == JobOutcome.PASSED:
                        reaching[number][test.id] = test
                    else:
                        unproven[number][test.id] = judged
        mutants = [
            RunningMutant(
                mutant,
                reaching[mutant.number],
                unproven[mutant.number],
                tag=f"patch:{patch_number(Path(mutant.patch))}",
                killer=self.known.get(mutant_digest(mutant), ""),
            )
            for mutant in self.chosen.to_run
        ]
        for item in mutants:
            self._take_stored(item)
        open_ones = [item for item in mutants if item.state == MutantState.NOT_RUN]
        longest = sum(self._seconds(test) for item in open_ones for test in item.left)
        not_reached = sum(item.state == MutantState.NOT_REACHED for item in mutants)
        self.lines.line(
            f"{len(mutants)} mutants, of which {not_reached} are not reached by any test and {len(open_ones)} are not "
            f"run; at most {seconds_text(longest)} of tests"
        )
        return mutants

    def _take_stored(self, item: RunningMutant) -> None:
        """Count results that are stored already, until one is a kill."""
        build = _build(item)
        stored = self.work.stored_tests(build)
        for test in item.reaching.values():
            known = item.state == MutantState.NOT_RUN and test.id in stored
            if known and self.work.adopt(build, self.built, test):
                self._count(item, test, self.work.judge(build, test))

    def _next_of(self, item: RunningMutant, waiting: Sequence[RunningMutant]) -> tuple[SuiteTest, list[RunningMutant]]:
        """The next test of a mutant, and the mutants to run it on."""
        groups = {test: _group(item, test, waiting) for test in item.left}
        return min(groups.items(), key=lambda found: (self._price(item, found[0]) / len(found[1]), found[0].id))

    def _task(self, test: SuiteTest, group: list[RunningMutant]) -> Task:
        for item in group:
            item.running = True
        run = functools.partial(self.work.run, _build(*group), self.built, test)
        return Task(run, functools.partial(self._add, group, test))

    def _add(self, group: list[RunningMutant], test: SuiteTest, judged: JudgedJob | None) -> None:
        if judged is not None and len(group) > 1 and judged.outcome != JobOutcome.PASSED:
            middle = len(group) // 2
            self._halves += [(test, group[middle:]), (test, group[:middle])]
            self.lines.line(f"{test.id} on {_build(*group).name}: {judged.outcome}; halves of them are next")
            return
        for item in group:
            item.running = False
        if judged is None:
            return
        if len(group) == 1:
            self._count(group[0], test, judged)
        else:
            self._add_group(group, test)
        for item in group:
            self._show(item, test)

    def _add_group(self, group: list[RunningMutant], test: SuiteTest) -> None:
        """Count a test that has passed on several mutants for those that it reached."""
        reached = reached_numbers(self.work.final(_build(*group), test))
        for item in group:
            if item.mutant.number in reached:
                self._count(item, test, self.work.share(_build(*group), _build(item), self.built, test))
            else:
                item.hidden.add(test.id)

    def _show(self, item: RunningMutant, test: SuiteTest) -> None:
        judged = item.jobs.get(test.id)
        if judged is None:
            return
        mutant, state = item.mutant, item.state
        done = sum(other.state != MutantState.NOT_RUN for other in self._mutants or ())
        by = f" by {test.id}: {judged.messages[0]}" if state == MutantState.KILLED and judged.messages else ""
        text = f"{state}{by}" if state != MutantState.NOT_RUN else f"{test.id}: {judged.outcome}"
        what = f"{mutant.number} {mutant.place} {mutant.rule}: {mutant.original}"
        self.lines.line(f"{done}/{len(self._mutants or ())} {one_line(what, 90)}: {text}")

    def _count(self, item: RunningMutant, test: SuiteTest, judged: JudgedJob) -> None:
        item.jobs[test.id] = judged
        for place in (item.mutant.patch, item.mutant.function):
            self._run[place, test.id] += 1
            self._killed[place, test.id] += judged.outcome == JobOutcome.FAILED

    def _price(self, item: RunningMutant, test: SuiteTest) -> float:
        """Seconds for one kill, as far as known.

        A test that is known to kill comes first: cheaper ones have let the mutant pass when it was found.
        """
        if item.killer in item.reaching and item.killer not in item.jobs:
            return self._seconds(test) / SHARE_OF_KNOWN if item.killer == test.id else math.inf
        share = SHARE_OF_OWN if item.tag in self.tags.get(test.id, ()) else SHARE_OF_OTHERS
        for place in (item.mutant.patch, item.mutant.function):
            share = (self._killed[place, test.id] + 2 * share) / (self._run[place, test.id] + 2)
        return self._seconds(test) / share

    def _seconds(self, test: SuiteTest) -> float:
        return max(self._baseline[test.id].seconds or 0.0, SHORTEST_S)


def _build(*group: RunningMutant) -> Build:
    return Build(numbers=tuple(item.mutant.number for item in group))


def _group(item: RunningMutant, test: SuiteTest, waiting: Sequence[RunningMutant]) -> list[RunningMutant]:
    """A mutant and those that may run with it: of different functions, those with the fewest tests first."""
    if not item.may_join(test):
        return [item]
    group = {item.mutant.function: item}
    for other in waiting:
        if len(group) < GROUP and other.may_join(test):
            group.setdefault(other.mutant.function, other)
    return list(group.values())


def _result(item: RunningMutant) -> GeneratedResult:
    by = next((test for test, job in item.jobs.items() if job.outcome == JobOutcome.FAILED), "")
    decided = (JobOutcome.PASSED, JobOutcome.FAILED)
    found = [(test, "", job) for test, job in item.jobs.items() if job.outcome not in decided]
    found += [(test, " without a mutant", job) for test, job in item.unproven.items()]
    reason = ""
    if found and not by:
        test, where, job = found[0]
        reason = f"{test}: {job.outcome}{where}" + (f": {job.messages[0]}" if job.messages else "")
    return GeneratedResult(
        mutant=item.mutant,
        state=item.state,
        killed_by=by,
        message=item.jobs[by].messages[0] if by and item.jobs[by].messages else "",
        reason=reason,
        tests=len(item.reaching),
        run=len(item.jobs),
        seconds=round(sum(job.seconds or 0.0 for job in item.jobs.values()), 1),
    )


def _tags_of(tests: Sequence[SuiteTest]) -> dict[str, frozenset[str]]:
    """Avocado's tags of each test, by its id."""
    tags = {source.key: source.tags for source in read_test_sources()}
    return {test.id: tags.get(suite_key(test.reference), frozenset()) for test in tests}


def reached_numbers(folder: Path) -> set[int]:
    """Numbers of the mutants that the QEMUs of a job reached, from the files that they wrote."""
    contents = (path.read_bytes() for path in folder.rglob("reached-*.bin"))
    return {number for content in contents for number, byte in enumerate(content) if byte}


def prove_generated(
    folder: Path,
    request: MutationRequest,
    tests: Sequence[SuiteTest],
    *,
    parallel: int | None,
    progress: Progress,
    say: Callable[[str], None],
) -> MutationReport:
    """Run the missing tests of a session with generated mutants and write its report, also when it is interrupted.

    Parameters and errors as of :func:`cprlib.campaign.mutation.run.prove`.

    :raises UsageError: no mutant was generated for the patches that were asked for.
    """
    equivalent, known, policies = load_equivalent(), load_killers(), load_policies(request.base)
    with open_session(STORE, folder, request.engine, parallel, progress, request.base) as session:
        mutated = build_mutated(request.base, progress, request.functions)
        chosen = choose_generated(mutated.set, request, equivalent)
        work, built = MutationJobs(session, request.base, policies), described_build(mutated.qemu)
        counts = f"{len(chosen.to_run)} of {chosen.available} generated mutants"
        say(f"{counts}, {session.workers} tests at once, in {folder}")
        seconds = math.inf if request.hours is None else request.hours * 3600
        strategy = GeneratedStrategy(chosen, tests, work, built, ProgressLines(say), _tags_of(tests), known, seconds)
        try:
            session.run_all(strategy)
        finally:
            generated = generated_report(strategy.results(), chosen, mutated.set, request, mutated.qemu.path)
            good = read_results(folder, PlannedBuild(NONE_CHOSEN, tuple(tests)), built, policies)
            report = make_report([good], tests, request, session.environment(), generated)
            write_report(folder, report)
            files.write_text(folder / "killers.json", killers_text(known, generated.mutants))
    return report
