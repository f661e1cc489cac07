"""``cprlib build``: QEMU with the series, mutants of it, the guest image, the lab's kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cprlib.build.series import DEFAULT_BASE
from cprlib.cli import completion
from cprlib.cli.options import refuse_options
from cprlib.errors import UsageError

if TYPE_CHECKING:
    from cprlib.build.mutants import Mutant
    from cprlib.build.progress import Progress

PARTS = {"all": ("base", "no_series"), "qemu": ("base", "no_series"), "guest": (), "lab": ()}  # with their options


@click.command()
@click.argument("part", type=click.Choice(tuple(PARTS)), default="all")
@click.option(
    "--base",
    default=DEFAULT_BASE,
    show_default=True,
    shell_complete=completion.bases,
    help="QEMU release to build (images/qemu/bases.toml).",
)
@click.option("--no-series", is_flag=True, help="Build the base without images/qemu/series.")
@click.option(
    "--mutant",
    "mutants",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.mutants,
    help="Build this mutant: a QEMU with a known defect.",
)
@click.option("--mutants", "all_mutants", is_flag=True, help="Build all mutants of the base.")
@click.option(
    "--mutants-in",
    "mutants_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Use the mutants of this folder.",
)
@click.option("--list", "listing", is_flag=True, help="List the mutants and build nothing.")
@click.option("--markdown", is_flag=True, help="With --list: write the page docs/mutants.md.")
@click.pass_context
def build(
    context: click.Context,
    /,
    part: str,
    base: str,
    no_series: bool,
    mutants: tuple[str, ...],
    all_mutants: bool,
    mutants_folder: Path | None,
    listing: bool,
    markdown: bool,
) -> None:
    """Build what a run needs and print the paths. Existing builds are reused."""
    from cprlib.build.assets import build_assets, build_base, build_guest, build_lab
    from cprlib.build.mutants import find_mutant, load_mutants
    from cprlib.build.progress import console_progress
    from cprlib.build.qemu import build_qemu

    if mutants and all_mutants:
        raise UsageError("build mutants", "both --mutant and --mutants are given", "give one of them")
    if mutants or all_mutants or listing:
        tried, own = ("list mutants", ("listing", "markdown")) if listing else ("build mutants", ("base",))
        refuse_options(context, tried, "it has no effect", kept=("mutants", "all_mutants", "mutants_folder", *own))
        known = [] if mutants else [item for item in load_mutants(mutants_folder) if listing or base in item.bases]
        chosen = [find_mutant(name, mutants_folder) for name in mutants] or known
        if listing:
            _list(chosen, markdown)
        else:
            _build_mutants(chosen, base, console_progress())
        return
    refuse_options(context, f"build {part}", "it has no effect", kept=("part", *PARTS[part]))
    progress = console_progress()
    if part == "all" and not no_series:
        build_assets(progress, lab=True, base=base)  # all at once, and recorded for tests; below it is only found
    if part in ("all", "qemu"):
        qemu = build_qemu(base, False, progress) if no_series else build_base(base, progress)
        click.echo(f"qemu       {qemu.path}")
        click.echo(f"firmware   {qemu.firmware}")
    if part in ("all", "guest"):
        guest = build_guest(progress)
        click.echo(f"kernel     {guest.kernel}")
        click.echo(f"initramfs  {guest.initramfs}")
    if part in ("all", "lab"):
        click.echo(f"lab kernel {build_lab(progress)}")


def _list(mutants: Sequence[Mutant], markdown: bool) -> None:
    from cprlib.campaign.mutation.list_page import mutants_page

    if markdown:
        click.echo(mutants_page(mutants), nl=False)
        return
    width = max((len(item.name) for item in mutants), default=0)
    for item in mutants:
        click.echo(f"{item.name:{width}}  {item.subject}")


def _build_mutants(mutants: Sequence[Mutant], base: str, progress: Progress) -> None:
    """Print only the path for one mutant, as ``--qemu "$(cprlib build --mutant NAME)"`` needs it, else names too."""
    from cprlib.build.mutants import build_mutant

    width = max((len(item.name) for item in mutants), default=0) if len(mutants) > 1 else 0
    for item in mutants:
        built = build_mutant(item, base, progress)
        click.echo(f"{item.name:{width}}  {built.path}" if width else str(built.path))
