"""``cprlib compare``: is one QEMU worse than another? Both in turn in one session, or two saved results."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from cprlib.build.assets import DEFAULT_BASE, Assets, build_assets
from cprlib.build.progress import console_progress
from cprlib.cli.run import read_brought, read_parameters
from cprlib.compare.comparison import Comparison
from cprlib.compare.findings import MIN_EFFECT, MIN_EFFECT_MS, Effect
from cprlib.compare.output import PAGE_FILE, write_comparison
from cprlib.compare.run import Wanted, make_arms, side_of
from cprlib.compare.run import compare as run_comparison
from cprlib.compare.saved import compare_saved
from cprlib.compare.session import Arm
from cprlib.compare.text import comparison_text
from cprlib.errors import UsageError
from cprlib.lab.engines import ENGINES
from cprlib.prove.tests import SuiteTest, list_tests
from cprlib.qemu.binary import QemuBinary, file_digest, probe
from cprlib.report.environment import describe_environment
from cprlib.report.results_folder import new_results_folder, publish
from cprlib.suite.place import asset_parameters, choose_engine
from cprlib.verdict.policy_file import load_policy
from fixtures.parameters import check_parameters

RESULTS = Path("results") / "compare"
CHAIN, CROSSING = "chain-of-5-updates-loses-nothing", "update-to-another-base-loses-nothing"
USUAL = {"chain": "4", "rate": "500"}
"""Few updates of many guests, because guests differ more; the rate leaves a slow machine some air."""

path_option = click.Path(path_type=Path)


@click.command()
@click.argument("saved", nargs=-1)
@click.option("--a", "a", type=path_option, help="QEMU to compare with; the project's own build otherwise.")
@click.option("--b", "b", type=path_option, help="QEMU that may be worse.")
@click.option("--a-firmware", type=path_option, help="Firmware folder of --a (its -L).")
@click.option("--b-firmware", type=path_option, help="Firmware folder of --b.")
@click.option("--base", default=DEFAULT_BASE, show_default=True, help="Base of the project's own build, for A.")
@click.option("--budget", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Minutes for all rounds.")
@click.option(
    "--min-effect", type=click.FloatRange(1, 1000), default=100 * MIN_EFFECT, show_default=True,
    help="Percent of A: no smaller difference of a duration matters.",
)  # fmt: skip
@click.option("--noise", is_flag=True, help="Also hold A against itself in the same rounds.")
@click.option("--crossing/--no-crossing", default=True, help="Also update from A to B, in the first two rounds.")
@click.option("--whole", is_flag=True, help="Use the whole budget, even though everything is decided.")
@click.option("--policy", default="default", show_default=True, help="A policy of fixtures/policies, or a TOML file.")
@click.option("--native", is_flag=True, help="Run on this host, whatever cprlib doctor says.")
@click.option("--lab", type=click.Choice(ENGINES), is_flag=False, flag_value="uml", help="Run in labs.")
@click.option("--parallel", type=click.IntRange(1), help="Guests at once; one per core in the lab, else one.")
@click.option("--seed", type=int, help="Of the lots that say who goes first; drawn otherwise.")
@click.option("--out", type=path_option, default=RESULTS, show_default=True, help="Folder of all comparisons.")
@click.option("-t", "--test", "tests", multiple=True, metavar="CASE", help="Measure this case; by its id.")
@click.option("-p", "--parameter", multiple=True, metavar="NAME=VALUE", help="Avocado parameter.")
def compare(
    saved: tuple[str, ...],
    a: Path | None,
    b: Path | None,
    a_firmware: Path | None,
    b_firmware: Path | None,
    base: str,
    budget: float,
    min_effect: float,
    noise: bool,
    crossing: bool,
    whole: bool,
    policy: str,
    native: bool,
    lab: str | None,
    parallel: int | None,
    seed: int | None,
    out: Path,
    tests: tuple[str, ...],
    parameter: tuple[str, ...],
) -> int:
    """Say for each metric whether B is worse than A, better, or no different.

    With --b, A and B are run in turn in one session until everything is decided or the budget is used up. Else give two
    saved results folders, A's first: RESULTS_A RESULTS_B.

    The last line is the verdict. Exit status: 0 no regression, 1 regression, 3 undecided.
    """
    effect = Effect(min_effect / 100, MIN_EFFECT_MS)
    command = shlex.join(["cprlib", *sys.argv[1:]])
    if b is None:
        made = _saved(saved, a, policy, effect, command)
        folder = new_results_folder(out.resolve())
    else:
        if saved:
            raise UsageError(
                f"compare {saved[0]}", "saved results and --b were both given", "name cases to measure with -t"
            )
        if native and lab:
            raise UsageError("compare", "both --native and --lab were given", "give one of them")
        given = read_parameters(parameter)
        check_parameters(given)
        judged_by = load_policy(policy)
        first, second = read_brought(a, a_firmware), read_brought(b, b_firmware)
        assert second is not None
        every = list_tests()
        measured, crossings = _tests(tests or (CHAIN,), every), _tests((CROSSING,), every) if crossing else ()
        engine = choose_engine(native, lab, lambda text: click.echo(text, err=True))
        assets = build_assets(console_progress(), lab=engine is not None, qemu=first, base=base)
        used = {name: value for name, value in USUAL.items() if name not in given} | given
        arms = _arms(assets, second, engine, policy, used, measured, crossings, again=noise)
        sides = [side_of(probe(qemu)) for qemu in (assets.qemu, second)]
        drawn = secrets.randbelow(1 << 31) if seed is None else seed
        wanted = Wanted(arms, sides[0], sides[1], effect, judged_by, 60 * budget, whole, drawn, command, used)
        folder = new_results_folder(out.resolve())
        try:
            made = run_comparison(
                folder,
                wanted,
                engine=engine,
                lab_kernel=assets.lab_kernel,
                workers=parallel or (len(os.sched_getaffinity(0)) if engine else 1),
                environment=describe_environment(
                    mode="lab" if engine else "native",
                    engine=engine or "",
                    lab_kernel=assets.lab_kernel,
                    accelerator=arms[0].parameters.get("accelerator", "tcg"),
                ),
                say=lambda line: click.echo(line, err=True),
            )
        except KeyboardInterrupt:
            kept = shlex.join(["cprlib", "compare", *(str(folder / "cells" / name) for name in "ab")])
            click.echo(f"what was measured is kept; look at it with: {kept}", err=True)
            raise
    write_comparison(made, folder)
    latest = publish(folder)
    click.echo(f"comparison: {latest / PAGE_FILE}", err=True)
    click.echo(comparison_text(made), nl=False)
    return int(made.exit_status)


def _arms(
    assets: Assets,
    second: QemuBinary,
    engine: str | None,
    policy: str,
    used: Mapping[str, str],
    measured: tuple[SuiteTest, ...],
    crossings: tuple[SuiteTest, ...],
    *,
    again: bool,
) -> tuple[Arm, ...]:
    """A, B and what else runs in a round. There is nothing to cross between a QEMU and itself."""
    a, b = ({**asset_parameters(assets, engine, policy, qemu=qemu), **used} for qemu in (assets.qemu, second))
    same = file_digest(assets.qemu.path) == file_digest(second.path)
    return make_arms(measured, a, b, again=again, crossing=() if same else crossings)


def _tests(names: Sequence[str], every: Sequence[SuiteTest]) -> tuple[SuiteTest, ...]:
    known = {test.id: test for test in every}
    for name in names:
        if name not in known:
            raise UsageError(
                f"measure {name!r}", "the suite has no case of that id", "docs/tests.md lists them, with dashes"
            )
    return tuple(known[name] for name in dict.fromkeys(names))


def _saved(saved: Sequence[str], a: Path | None, policy: str, effect: Effect, command: str) -> Comparison:
    if a is not None or len(saved) != 2:
        raise UsageError(
            "compare", "neither --b nor two saved results were given",
            "cprlib compare --a QEMU_A --b QEMU_B, or cprlib compare RESULTS_A RESULTS_B",
        )  # fmt: skip
    first, second = (Path(name) for name in saved)
    for path in (first, second):
        if not path.is_dir():
            raise UsageError(
                f"compare {path}", "there is no such folder", "give the folder of a run, as results/latest"
            )
    return compare_saved(first, second, load_policy(policy), effect, describe_environment(), command)
