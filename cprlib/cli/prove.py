"""``cprlib prove``: does each test catch the variant that it must, and nothing on the good build?"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click

from cprlib.build.assets import DEFAULT_BASE
from cprlib.build.progress import console_progress
from cprlib.build.series import find_base
from cprlib.campaign.mutation.matrix_html import PAGE_FILE
from cprlib.campaign.mutation.matrix_text import matrix_text
from cprlib.campaign.mutation.proof import Wanted, latest_proof, new_proof, read_wanted
from cprlib.campaign.mutation.prove import chosen_variants, make_plan
from cprlib.campaign.mutation.prove import prove as run_proof
from cprlib.campaign.mutation.tests import list_tests
from cprlib.cli import completion
from cprlib.cli.resuming import refuse_beside_resume
from cprlib.errors import UsageError
from cprlib.lab.backend import choose_engine
from cprlib.report.results_folder import publish

WITH_RESUME = ("out", "parallel", "resume")
RESULTS = Path("results") / "prove"
folder_option = click.Path(path_type=Path)


@click.command()
@click.option(
    "--variant",
    "names",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.mutants,
    help="Only this variant; may be given again.",
)
@click.option("--base", default=DEFAULT_BASE, show_default=True, help="Base of the builds (images/qemu/bases.toml).")
@click.option("--whole/--quick", default=True, help="Every test on every build, or on a variant its own tests only.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Runs of the good build.")
@click.option("--native", is_flag=True, help="Run on this host, whatever cprlib doctor says.")
@click.option("--lab", is_flag=True, help="Run in labs, whatever cprlib doctor says.")
@click.option("--parallel", type=click.IntRange(1), help="Tests at once; one per core in the lab, else one.")
@click.option("--out", type=folder_option, default=RESULTS, show_default=True, help="Folder of all proofs.")
@click.option("--resume", is_flag=True, help="Continue the latest proof in --out; what it was to show stays.")
@click.option("--variants", type=folder_option, help="Folder of variants other than images/qemu/mutants.")
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
    variants: Path | None,
) -> int:
    """Run the suite on the good build and on every variant: each variant has to be caught by the tests it names.

    Prints a matrix and saves it as matrix.json, matrix.html and matrix.md.
    """
    _refuse(context, native and lab, resume)
    top = out.resolve()
    folder = latest_proof(top) if resume else None
    if folder is not None:
        wanted = read_wanted(folder)
    else:
        find_base(base)
        chosen_variants(names, base, variants)
        engine = choose_engine(native, "uml" if lab else None, lambda text: click.echo(text, err=True))
        command = shlex.join(["cprlib", *sys.argv[1:]])
        place = str(variants.resolve()) if variants else ""
        wanted = Wanted(base, names, place, whole, repeat, engine, command, time.time_ns())
    tests = list_tests()
    make_plan(chosen_variants(wanted.variants, wanted.base, wanted.folder), tests, wanted)  # refused before it is begun
    folder = folder or new_proof(top, wanted)
    try:
        matrix = run_proof(
            folder,
            wanted,
            tests,
            parallel=parallel,
            progress=console_progress(),
            say=lambda line: click.echo(line, err=True),
        )
    except KeyboardInterrupt:
        again = shlex.join(["cprlib", "prove", "--resume", *(["--out", str(out)] if out != RESULTS else [])])
        click.echo(f"what was run is kept in {folder}; go on with: {again}", err=True)
        raise
    latest = publish(folder)
    click.echo(matrix_text(matrix))
    click.echo(f"matrix: {latest / PAGE_FILE}")
    return int(matrix.exit_status)


def _refuse(context: click.Context, both: bool, resume: bool) -> None:
    if both:
        raise UsageError("prove the suite", "both --native and --lab were given", "give one of them")
    if not resume:
        return
    names = {"names": "variant", "whole": "whole or --quick"}
    refuse_beside_resume(context, WITH_RESUME, "a proof", "what it is to show", names)
