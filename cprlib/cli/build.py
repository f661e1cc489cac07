"""``cprlib build``: QEMU with the series, its variants, the guest image, the lab's kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from cprlib.build.assets import DEFAULT_BASE, build_assets, build_base
from cprlib.build.guest_image import build_guest_image
from cprlib.build.lab_kernel import build_lab_kernel
from cprlib.build.progress import Progress, console_progress
from cprlib.build.qemu import build_qemu
from cprlib.build.variants import Variant, build_variant, find_variant, load_variants
from cprlib.cli import completion
from cprlib.errors import UsageError

PARTS = ("all", "qemu", "guest", "lab")


@click.command()
@click.argument("part", type=click.Choice(PARTS), default="all")
@click.option(
    "--base",
    default=DEFAULT_BASE,
    show_default=True,
    shell_complete=completion.bases,
    help="QEMU release to build (images/qemu/bases.toml).",
)
@click.option("--no-series", is_flag=True, help="Build the base as it is, without images/qemu/series.")
@click.option(
    "--variant",
    "names",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.variants,
    help="Build this variant of QEMU, a build to be refused.",
)
@click.option("--variants", "every", is_flag=True, help="Build all variants that are made for the base.")
@click.option("--variants-in", type=click.Path(path_type=Path), metavar="DIR", help="Variants of this folder instead.")
@click.option("--list", "listing", is_flag=True, help="List the variants and build nothing.")
def build(
    part: str,
    base: str,
    no_series: bool,
    names: tuple[str, ...],
    every: bool,
    variants_in: Path | None,
    listing: bool,
) -> None:
    """Build what a run needs and say where it is. What is built already is not built again."""
    if names or every or listing:
        if part != "all" or no_series:
            raise UsageError("build variants", "something else is to be built too", "give one or the other")
        known = [] if names else [item for item in load_variants(variants_in) if base in item.bases]
        chosen = [find_variant(name, variants_in) for name in names] or known
        if listing:
            _list(chosen)
        else:
            _build_variants(chosen, base, console_progress())
        return
    progress = console_progress()
    if part == "all" and not no_series:
        build_base(base, progress)
        assets = build_assets(progress, lab=True, base=base)
        click.echo(f"qemu       {assets.qemu.path}")
        click.echo(f"firmware   {assets.qemu.firmware}")
        click.echo(f"kernel     {assets.guest.kernel}")
        click.echo(f"initramfs  {assets.guest.initramfs}")
        click.echo(f"lab kernel {assets.lab_kernel}")
        return
    if part in ("all", "qemu"):
        built = build_qemu(base, not no_series, progress)
        if not no_series:
            build_base(base, progress)  # the same again, noted for tests that name it
        click.echo(f"qemu       {built.binary}")
        click.echo(f"firmware   {built.firmware}")
    if part in ("all", "guest"):
        guest = build_guest_image(progress)
        click.echo(f"kernel     {guest.kernel}")
        click.echo(f"initramfs  {guest.initramfs}")
    if part in ("all", "lab"):
        click.echo(f"lab kernel {build_lab_kernel(progress)}")


def _list(variants: Sequence[Variant]) -> None:
    width = max((len(item.name) for item in variants), default=0)
    for item in variants:
        click.echo(f"{item.name:{width}}  {item.title}")


def _build_variants(variants: Sequence[Variant], base: str, progress: Progress) -> None:
    """The path alone for one variant, so that ``--qemu "$(cprlib build --variant NAME)"`` works; else name and path."""
    width = max((len(item.name) for item in variants), default=0) if len(variants) > 1 else 0
    for item in variants:
        built = build_variant(item, base, progress)
        click.echo(f"{item.name:{width}}  {built.binary}" if width else str(built.binary))
