"""``cprlib build``: QEMU with the series, the guest image, the lab's kernel."""

from __future__ import annotations

import click

from cprlib.build.assets import DEFAULT_BASE, build_assets
from cprlib.build.guest_image import build_guest_image
from cprlib.build.lab_kernel import build_lab_kernel
from cprlib.build.progress import console_progress
from cprlib.build.qemu import build_qemu

PARTS = ("all", "qemu", "guest", "lab")


@click.command()
@click.argument("part", type=click.Choice(PARTS), default="all")
@click.option("--base", default=DEFAULT_BASE, show_default=True, help="QEMU release to build (images/qemu/bases.toml).")
@click.option("--no-series", is_flag=True, help="Build the base as it is, without images/qemu/series.")
def build(part: str, base: str, no_series: bool) -> None:
    """Build what a run needs and say where it is. What is built already is not built again."""
    progress = console_progress()
    if part == "all" and not no_series:
        assets = build_assets(progress, lab=True, base=base)
        click.echo(f"qemu       {assets.qemu.path}")
        click.echo(f"firmware   {assets.qemu.firmware}")
        click.echo(f"kernel     {assets.guest.kernel}")
        click.echo(f"initramfs  {assets.guest.initramfs}")
        click.echo(f"lab kernel {assets.lab_kernel}")
        return
    if part in ("all", "qemu"):
        built = build_qemu(base, not no_series, progress)
        click.echo(f"qemu       {built.binary}")
        click.echo(f"firmware   {built.firmware}")
    if part in ("all", "guest"):
        guest = build_guest_image(progress)
        click.echo(f"kernel     {guest.kernel}")
        click.echo(f"initramfs  {guest.initramfs}")
    if part in ("all", "lab"):
        click.echo(f"lab kernel {build_lab_kernel(progress)}")
