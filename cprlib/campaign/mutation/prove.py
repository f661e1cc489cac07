"""A proof from the wish to the matrix: plan, builds and cells, matrix."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cprlib.build.assets import build_assets
from cprlib.build.mutants import Mutant, find_mutant, load_mutants
from cprlib.build.progress import Progress
from cprlib.campaign.mutation.assemble import notes_of, read_rows, write_matrix
from cprlib.campaign.mutation.matrix import Build, Matrix
from cprlib.campaign.mutation.outcome import Policies
from cprlib.campaign.mutation.pool import PlannedRow, Pool
from cprlib.campaign.mutation.progress import ProofProgress
from cprlib.campaign.mutation.proof import Wanted
from cprlib.campaign.mutation.tests import SuiteTest, find_tests
from cprlib.campaign.mutation.work import USUAL_POLICY, RealWork
from cprlib.campaign.work_folder import at_work
from cprlib.campaign.workers import Children
from cprlib.errors import UsageError
from cprlib.report.environment import describe_environment
from cprlib.verdict.policy_file import load_policy

STRICT_POLICY = "strict"


def chosen_variants(names: Sequence[str], base: str, variants: Path | None = None) -> tuple[Mutant, ...]:
    """The variants to prove.

    :param names: empty for all that are made for the base.
    :param variants: their folder; the project's when None.
    :raises UsageError: one does not exist, is not made for the base, or has a malformed manifest; or there are none.
    """
    if not names:
        found = tuple(variant for variant in load_mutants(variants) if base in variant.bases)
        if not found:
            raise UsageError(f"prove the suite on base {base}", "no variant is made for it", "choose another --base")
        return found
    chosen = [find_mutant(name, variants) for name in dict.fromkeys(names)]
    for variant in chosen:
        if base not in variant.bases:
            made_for = ", ".join(variant.bases)
            raise UsageError(f"prove variant {variant.name} on base {base}", f"it is made for: {made_for}")
    return tuple(chosen)


def make_plan(variants: Sequence[Mutant], tests: Sequence[SuiteTest], wanted: Wanted) -> tuple[PlannedRow, ...]:
    """The rows: the good build, the variants, and the further runs of the good build last.

    :raises UsageError: a variant names a test that the suite has not got.
    """
    musts = {variant.name: find_tests(variant.killed_by, tests, f"variant {variant.name}") for variant in variants}
    if wanted.whole:
        used = tuple(tests)
    else:
        named = {test.id for found in musts.values() for test in found}
        used = tuple(test for test in tests if test.id in named)
    rows = [PlannedRow(Build(variant), used if wanted.whole else musts[variant.name]) for variant in variants]
    good = [PlannedRow(Build(run=run), used) for run in range(1, wanted.repeat + 1)]
    return (good[0], *rows, *good[1:])


def prove(
    folder: Path,
    wanted: Wanted,
    tests: Sequence[SuiteTest],
    *,
    parallel: int | None,
    progress: Progress,
    say: Callable[[str], None],
) -> Matrix:
    """Run what is missing of a proof, and write its matrix.

    :param folder: of the proof.
    :param parallel: tests at once; None for one per core in the lab, one natively.
    :param say: takes lines of progress.
    :raises CprlibError: what keeps the proof from going on; what was stored stays.
    """
    plan = make_plan(chosen_variants(wanted.variants, wanted.base, wanted.folder), tests, wanted)
    policies = Policies(load_policy(USUAL_POLICY), load_policy(STRICT_POLICY))
    workers = parallel or (len(os.sched_getaffinity(0)) if wanted.engine else 1)
    with at_work(folder, "cprlib prove") as aside:
        assets = build_assets(progress, lab=wanted.engine is not None, base=wanted.base)
        children = Children()
        work = RealWork(folder, aside, assets, wanted.base, wanted.engine, policies, children)
        cells = sum(len(row.tests) for row in plan)
        say(f"{cells} cells: {len(plan)} builds; {workers} at once; in {folder}")
        watcher = ProofProgress(say, cells, len(plan), workers)
        built = Pool(plan, work, watcher, workers, children).run()
        rows = read_rows(folder, sorted(plan, key=lambda row: row.build.variant is not None), built, policies)
        used = {test.id for row in plan for test in row.tests}
        matrix = Matrix(
            folder,
            rows,
            {test.id: test.reference for test in tests if test.id in used},
            wanted.base,
            wanted.whole,
            wanted.engine or "",
            describe_environment(mode="lab" if wanted.engine else "native", engine=wanted.engine or ""),
            wanted.command,
            wanted.started_ns,
            time.time_ns(),
            notes_of(rows),
        )
        write_matrix(matrix)
    return matrix
