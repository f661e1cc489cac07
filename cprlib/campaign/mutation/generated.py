"""Generated mutants of a series: selection, result of each mutant, score of each patch.

The records are those of ``generated`` in mutation.json. Mutants without a difference that a test could see are data:
fixtures/equivalent-mutants.toml names each with its reason. fixtures/generated-killers.json has the test that killed a
mutant in an earlier run, which runs first on it.
"""

from __future__ import annotations

import collections
import enum
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cprlib.build.generated_mutants import GeneratedMutant, MutantSet
from cprlib.build.series import find_series
from cprlib.campaign.mutation.plan import MutationRequest
from cprlib.codec import BadValue, dump_json, load_json, load_toml
from cprlib.errors import UsageError
from cprlib.evidence.records import Outcome
from cprlib.files import project_folder
from cprlib.report.patch_results import patch_number

EQUIVALENT_FILE, KILLERS_FILE = "equivalent-mutants.toml", "generated-killers.json"
DIGITS = 10  # of a digest of a mutant


class MutantState(enum.StrEnum):
    """What a run showed of a generated mutant."""

    KILLED = "killed"  # a test that passes without it fails with it
    SURVIVED = "survived"  # every test that reaches it passes
    NOT_REACHED = "not reached"  # no test executes it: it survives without a run
    INCONCLUSIVE = "inconclusive"  # none fails; one is inconclusive, crashes, or does not pass without the mutant
    NOT_RUN = "not run"  # not every test that reaches it has run
    EQUIVALENT = "equivalent"  # not counted: no test can see it
    NOT_COMPILED = "not compiled"  # not counted


ALIVE = (MutantState.SURVIVED, MutantState.NOT_REACHED, MutantState.INCONCLUSIVE, MutantState.NOT_RUN)


@dataclass(frozen=True, slots=True)
class EquivalentMutant:
    """Mutants that no test can see, by their text, so that a moved line changes nothing.

    :param mutated: the changed text; any when empty. :param occurrence: of the same text in the function; any when 0.
    :param line: the source line, not indented; any when empty. Without it another line could get this occurrence.
    """

    file: str
    function: str
    rule: str
    original: str
    reason: str
    mutated: str = ""
    occurrence: int = 0
    line: str = ""

    def covers(self, mutant: GeneratedMutant) -> bool:
        own = (self.file, self.function, self.rule, self.original)
        return (
            own == (mutant.file, mutant.function, mutant.rule, mutant.original)
            and self.mutated in ("", mutant.mutated)
            and self.occurrence in (0, mutant.occurrence)
            and self.line in ("", mutant.source)
        )


def load_equivalent(path: Path | None = None) -> tuple[EquivalentMutant, ...]:
    """The mutants of fixtures/equivalent-mutants.toml.

    :raises UsageError: the file is malformed.
    """
    file = path or project_folder() / "fixtures" / EQUIVALENT_FILE
    kind = dict[Literal["equivalent"], tuple[EquivalentMutant, ...]]
    return load_toml(kind, file, "see the comments in fixtures/equivalent-mutants.toml").get("equivalent", ())


def load_killers(path: Path | None = None) -> dict[str, str]:
    """The test that killed each mutant of fixtures/generated-killers.json, by :func:`mutant_digest`; {} without a file.

    :raises UsageError: the file is malformed.
    """
    file = path or project_folder() / "fixtures" / KILLERS_FILE
    try:
        found = load_json(dict[str, list[str]], file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, BadValue) as error:
        raise UsageError(f"read {file}", str(error), "it is killers.json of an earlier run (docs/prove.md)") from error
    return {digest: test for test, digests in found.items() for digest in digests}


def killers_text(known: Mapping[str, str], results: Sequence[GeneratedResult]) -> str:
    """The content of ``killers.json``: for each test the mutants that it killed in this run or, if none did, before."""
    killed = {mutant_digest(result.mutant): result.killed_by for result in results if result.killed_by}
    by_test: dict[str, list[str]] = collections.defaultdict(list)
    for digest, test in sorted({**known, **killed}.items()):
        by_test[test].append(digest)
    return dump_json(dict(sorted(by_test.items())), indent=1)


def mutant_digest(mutant: GeneratedMutant, seed: str = "") -> str:
    """Hexadecimal; the same for the same mutant of another version of the series (:attr:`GeneratedMutant.identity`).

    :param seed: gives each mutant another digest.
    """
    words = (seed, *mutant.identity) if seed else mutant.identity
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:DIGITS]


@dataclass(frozen=True, slots=True)
class GeneratedResult:
    """A generated mutant and what the run showed of it.

    :param killed_by: id of the test that killed it. :param message: of that test, the first one.
    :param reason: why it is equivalent, or which test was inconclusive.
    :param tests: number of tests that reach it. :param run: number of tests that ran on it. :param seconds: of these.
    """

    mutant: GeneratedMutant
    state: MutantState
    killed_by: str = ""
    message: str = ""
    reason: str = ""
    tests: int = 0
    run: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ChosenMutants:
    """The mutants of a run.

    :param to_run: in the order of their numbers. :param left_out: equivalent ones, and those that did not compile.
    :param available: number of mutants that the sample was drawn from.
    """

    to_run: tuple[GeneratedMutant, ...]
    left_out: tuple[GeneratedResult, ...]
    available: int


def require_patches(numbers: Collection[int], base: str) -> None:
    """Refuse patches that the series for a base does not have.

    :raises UsageError: there is none of a number.
    """
    known = [patch_number(patch) for patch in find_series(base).patches]
    if missing := sorted(set(numbers) - set(known)):
        happened = f"the series for QEMU {base} has no such patch"
        advice = f"choose from {min(known)} to {max(known)}"
        raise UsageError(f"prove generated mutants of patch {missing[0]}", happened, advice)


def choose_generated(
    mutants: MutantSet, request: MutationRequest, equivalent: Sequence[EquivalentMutant]
) -> ChosenMutants:
    """The mutants that a request asks for.

    A sample takes the mutants with the lowest digests of seed and identity, so it stays the same while the set grows.

    :raises UsageError: there are none.
    """
    available, left_out = [], []
    for mutant in (*mutants.mutants, *mutants.not_compiled):
        if request.patches and patch_number(Path(mutant.patch)) not in request.patches:
            continue
        if not mutant.number:
            left_out.append(GeneratedResult(mutant, MutantState.NOT_COMPILED))
        elif reason := next((item.reason for item in equivalent if item.covers(mutant)), ""):
            left_out.append(GeneratedResult(mutant, MutantState.EQUIVALENT, reason=reason))
        else:
            available.append(mutant)
    if not available:
        raise UsageError("prove generated mutants", "none was generated for this patch", "choose another --patch")
    drawn = sorted(available, key=lambda mutant: mutant_digest(mutant, str(request.seed)))[: request.sample]
    return ChosenMutants(tuple(sorted(drawn, key=lambda mutant: mutant.number)), tuple(left_out), len(available))


@dataclass(frozen=True, slots=True)
class PatchScore:
    """The mutation score of one patch: ``killed`` of ``counted``.

    :param counted: all but equivalent ones and those that did not compile.
    """

    patch: str
    counted: int
    killed: int
    survived: int
    not_reached: int
    inconclusive: int
    not_run: int
    equivalent: int
    not_compiled: int

    @property
    def percent(self) -> float | None:
        """The score in percent; None without mutants."""
        return 100.0 * self.killed / self.counted if self.counted else None


@dataclass(frozen=True, slots=True)
class GeneratedReport:
    """The generated mutants of a run.

    :param available: mutants that the sample was drawn from. :param sample: size of the sample; None for all.
    :param at_least: percent that must be killed.
    :param skipped: places where a rule has no mutant, by reason.
    :param qemu: the binary; start it with the environment variable CPRLIB_MUTANT=NUMBER.
    :param patches: in the order of the series. :param mutants: in the order of their numbers.
    """

    available: int
    sample: int | None
    seed: int
    at_least: float
    skipped: Mapping[str, int]
    qemu: str
    total: PatchScore
    patches: tuple[PatchScore, ...]
    mutants: tuple[GeneratedResult, ...]

    @property
    def alive(self) -> tuple[GeneratedResult, ...]:
        return tuple(result for result in self.mutants if result.state in ALIVE)

    @property
    def verdict(self) -> Outcome:
        """Fail when too few were killed; inconclusive when those that are inconclusive or did not run decide."""
        total, required = self.total, self.at_least * self.total.counted / 100
        if total.killed >= required:
            return Outcome.PASS
        possible = total.killed + total.inconclusive + total.not_run
        return Outcome.INCONCLUSIVE if possible >= required else Outcome.FAIL

    @property
    def sentence(self) -> str:
        """``generated mutants: 95 of 103 killed (92.2 %), 2 not run``."""
        total = self.total
        drawn = f", a sample of {self.available} by seed {self.seed}" if self.sample else ""
        not_run = f", {total.not_run} not run" if total.not_run else ""
        score = f"{total.killed} of {total.counted} killed ({total.percent or 0.0:.1f} %)"
        return f"generated mutants: {score}{drawn}{not_run}"


def generated_report(
    results: Sequence[GeneratedResult], chosen: ChosenMutants, found: MutantSet, request: MutationRequest, qemu: Path
) -> GeneratedReport:
    """The scores of a run.

    :param results: of the mutants that were to run.
    """
    every = tuple(sorted((*results, *chosen.left_out), key=lambda result: result.mutant.number or math.inf))
    patches = sorted({result.mutant.patch for result in every})
    return GeneratedReport(
        chosen.available,
        request.sample,
        request.seed,
        request.at_least,
        found.skipped,
        str(qemu),
        _score("all", every),
        tuple(_score(patch, [item for item in every if item.mutant.patch == patch]) for patch in patches),
        every,
    )


def _score(patch: str, results: Sequence[GeneratedResult]) -> PatchScore:
    counts = collections.Counter(result.state for result in results)
    return PatchScore(
        patch,
        counts[MutantState.KILLED] + sum(counts[state] for state in ALIVE),
        **{state.name.lower(): counts[state] for state in MutantState},
    )
