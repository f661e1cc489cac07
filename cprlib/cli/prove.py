"""``cprlib prove``: the mutation score of the suite."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cprlib.build.progress import console_progress
from cprlib.build.series import find_base
from cprlib.campaign.job import list_tests
from cprlib.campaign.mutation.output import PAGE_FILE, report_text
from cprlib.campaign.mutation.plan import STORE, MutationRequest, choose_mutants, make_plan
from cprlib.campaign.mutation.run import prove as run_session
from cprlib.cli import completion
from cprlib.cli.options import (
    PATH,
    base_option,
    check_backend,
    command_line,
    hint_resume,
    native_option,
    out_option,
    parallel_option,
    refuse_with_resume,
    renamed_option,
    report_progress,
)
from cprlib.lab.doctor import choose_engine
from cprlib.report.results_folder import publish

WITH_RESUME = ("out", "parallel", "resume")
RESULTS = Path("results") / "prove"


@click.command()
@click.option(
    "--mutant",
    "names",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.mutants,
    help="Only this mutant; may be given several times.",
)
@base_option
@click.option(
    "--whole/--quick", default=True, help="Every test on every build, or on a mutant only the tests that must kill it."
)
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Runs of the good build.")
@native_option
@click.option("--lab", is_flag=True, help="Run in labs (uml), without asking cprlib doctor.")
@parallel_option
@out_option(RESULTS, "mutation runs")
@click.option("--resume", is_flag=True, help="Continue the latest mutation run in --out.")
@click.option("--mutants", "mutants_in", type=PATH, help="Folder of mutants other than images/qemu/mutants.")
@renamed_option("--variant VALUE", "--mutant")
@renamed_option("--variants VALUE", "--mutants")
@click.pass_context
def prove(
    context: click.Context,
    names: tuple[str, ...],
    base: str,
    whole: bool,
    repeat: int,
    native: bool,
    lab: bool,
    parallel: int | None,
    out: Path,
    resume: bool,
    mutants_in: Path | None,
) -> int:
    """Run the suite on the good build and on every mutant: the tests that a mutant names have to kill it.

    Prints the mutation score and saves it as mutation.json, mutation.html and mutation.md.
    """
    check_backend("prove the suite", native, "uml" if lab else None)
    top = out.resolve()
    if resume:
        refuse_with_resume(context, WITH_RESUME)
        session = STORE.latest(top)
        request = STORE.read(session)
    else:
        find_base(base)
        choose_mutants(names, base, mutants_in)
        engine = choose_engine(native, "uml" if lab else None, report_progress)
        where = str(mutants_in.resolve()) if mutants_in else ""
        request = MutationRequest(base, names, where, whole, repeat, engine, command_line(), time.time_ns())
    tests = list_tests()
    make_plan(choose_mutants(request.mutants, request.base, request.folder), tests, request)  # refuse before it begins
    if not resume:
        session = STORE.begin(top, request)
    with hint_resume("prove", session, out, RESULTS):
        report = run_session(
            session,
            request,
            tests,
            parallel=parallel,
            progress=console_progress(),
            say=report_progress,
        )
    latest = publish(session)
    click.echo(report_text(report))
    click.echo(f"report: {latest / PAGE_FILE}")
    return report.exit_status
