"""Which builds and which tests a mutation run covers.

A session's folder (:mod:`cprlib.campaign.store`) also has::

    results/good/run-1/<test>/      a job's folder (:mod:`cprlib.campaign.job`) with result.json
    results/mutants/<name>/<test>/
    results/generated/<number>/<test>/   of generated mutants; number 0: none is chosen
    results/generated/<number>-<number>-.../<test>/   of a group of them that ran together
    builds.log                      output of the builds
    mutation.json mutation.html mutation.md
    killers.json                    of generated mutants: the test that killed each
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.build.mutants import Mutant, find_mutant, load_mutants
from cprlib.campaign.job import SuiteTest, find_tests
from cprlib.campaign.mutation import AT_LEAST
from cprlib.campaign.store import STORE_VERSION, Store
from cprlib.errors import UsageError


@dataclass(frozen=True, slots=True)
class MutationRequest:
    """What a mutation run covers.

    :param base: QEMU release of all builds.
    :param mutants: names; empty for all mutants that are made for the base.
    :param mutants_folder: where they are; None for the project's own.
    :param whole: every test on every build; else on a mutant the tests that must kill it.
    :param repeat: runs of the good build.
    :param engine: of the lab; None to run natively.
    :param command: the command line that began the session.
    :param generated: generated mutants of the series instead of those of images/qemu/mutants.
    :param patches: numbers of the patches whose generated mutants run; empty for all.
    :param functions: names of functions of QEMU that have the mutants, instead of the lines that the series adds.
    :param sample: how many of them run; None for all. :param seed: chooses the sample.
    :param hours: no test of them begins after this time; None for no limit.
    :param at_least: percent of them that must be killed.
    :param tests: ids of the tests that may kill generated mutants; empty for all.
    """

    base: str
    mutants: tuple[str, ...] = ()
    mutants_folder: Path | None = None
    whole: bool = True
    repeat: int = 1
    engine: str | None = None
    command: str = ""
    started_ns: int = 0
    generated: bool = False
    patches: tuple[int, ...] = ()
    functions: tuple[str, ...] = ()
    sample: int | None = None
    seed: int = 0
    hours: float | None = None
    at_least: float = AT_LEAST
    tests: tuple[str, ...] = ()
    version: int = STORE_VERSION


STORE = Store("prove", MutationRequest)


@dataclass(frozen=True, slots=True)
class Build:
    """The good build in one of its runs, or a mutant.

    :param mutant: None for the good build and for generated mutants.
    :param run: of the good build, from 1.
    :param numbers: of the generated mutants that are chosen in the QEMU that has them all. (0,): that QEMU without a
        mutant; empty for other builds.
    """

    mutant: Mutant | None = None
    run: int = 1
    numbers: tuple[int, ...] = ()

    @property
    def stop_at(self) -> str:
        """The test ends at the first failed check that matches; empty: it runs to its end."""
        if any(self.numbers):
            return "."
        return self.mutant.message if self.mutant else ""

    @property
    def name(self) -> str:
        """For people."""
        if any(self.numbers):
            return f"generated mutant {', '.join(map(str, self.numbers))}"
        return self.mutant.name if self.mutant else f"good build, run {self.run}"

    @property
    def folder(self) -> str:
        """Of its results, below the results."""
        if self.numbers:
            return f"generated/{'-'.join(map(str, self.numbers))}"
        return f"mutants/{self.mutant.name}" if self.mutant else f"good/run-{self.run}"

    def must_kill(self, test: str) -> bool:
        """Whether this is a mutant that the test of this id has to kill."""
        return self.mutant is not None and test in self.mutant.killed_by


@dataclass(frozen=True, slots=True)
class PlannedBuild:
    """A build and the tests to run on it."""

    build: Build
    tests: tuple[SuiteTest, ...]


def choose_mutants(names: Sequence[str], base: str, folder: Path | None = None) -> tuple[Mutant, ...]:
    """The mutants of a run.

    :param names: empty for all that are made for the base.
    :param folder: of the mutants; the project's own when None.
    :raises UsageError: one does not exist, is not made for the base, or is malformed; or there are none.
    """
    if not names:
        found = tuple(mutant for mutant in load_mutants(folder) if base in mutant.bases)
        if not found:
            raise UsageError(f"prove the suite on base {base}", "no mutant is made for it", "choose another --base")
        return found
    chosen = [find_mutant(name, folder) for name in dict.fromkeys(names)]
    for mutant in chosen:
        if base not in mutant.bases:
            made_for = ", ".join(mutant.bases)
            raise UsageError(
                f"prove mutant {mutant.name} on base {base}", f"it is made for: {made_for}", "choose another --base"
            )
    return tuple(chosen)


def make_plan(
    mutants: Sequence[Mutant], tests: Sequence[SuiteTest], request: MutationRequest
) -> tuple[PlannedBuild, ...]:
    """The builds in the order in which they run: good build, mutants, further runs of the good build.

    :raises UsageError: a mutant names a test that the suite does not have.
    """
    killers = {
        mutant.name: find_tests(mutant.killed_by, tests, f"prove mutant {mutant.name}", "correct its Killed-by")
        for mutant in mutants
    }
    if request.whole:
        used = tuple(tests)
    else:
        named = {test.id for found in killers.values() for test in found}
        used = tuple(test for test in tests if test.id in named)
    planned = [PlannedBuild(Build(mutant), used if request.whole else killers[mutant.name]) for mutant in mutants]
    good = [PlannedBuild(Build(run=run), used) for run in range(1, request.repeat + 1)]
    return (good[0], *planned, *good[1:])
