"""``cprlib compare``: is one QEMU worse than another? Both in turn in one session, or two saved results."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from cprlib.build.assets import DEFAULT_BASE, Assets, build_assets
from cprlib.build.progress import console_progress
from cprlib.campaign.compare.comparison import Comparison
from cprlib.campaign.compare.findings import MIN_EFFECT, MIN_EFFECT_MS, Effect
from cprlib.campaign.compare.kept import Asked, Kept, latest_kept
from cprlib.campaign.compare.output import PAGE_FILE, write_comparison
from cprlib.campaign.compare.run import Wanted, make_arms, side_of
from cprlib.campaign.compare.run import compare as run_comparison
from cprlib.campaign.compare.saved import compare_saved
from cprlib.campaign.compare.session import Arm
from cprlib.campaign.compare.text import comparison_text
from cprlib.campaign.job import SuiteTest, list_tests
from cprlib.cli.options import read_parameters, read_qemu
from cprlib.errors import UsageError
from cprlib.lab.backend import asset_parameters, choose_engine
from cprlib.lab.engines import ENGINES
from cprlib.qemu.binary import QemuBinary, file_digest, probe
from cprlib.report.environment import describe_environment
from cprlib.report.results_folder import new_results_folder, publish
from cprlib.testing.parameters import check_parameters
from cprlib.verdict.policy_file import load_policy

RESULTS = Path("results") / "compare"
WITH_RESUME = ("resume", "out", "parallel")
CHAIN, CROSSING = "chain-of-5-updates-loses-nothing", "update-to-another-base-loses-nothing"
USUAL = {"chain": "4", "rate": "500"}
"""Few updates of many guests, because guests differ more; the rate leaves a slow machine some air."""

path_option = click.Path(path_type=Path)


@click.command()
@click.argument("saved", nargs=-1, metavar="[RESULTS_A RESULTS_B]")
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
@click.option("--resume", is_flag=True, help="Go on with the latest comparison in --out, which was interrupted.")
@click.option("-t", "--test", "tests", multiple=True, metavar="CASE", help="Measure this case; by its id.")
@click.option("-p", "--parameter", multiple=True, metavar="NAME=VALUE", help="Avocado parameter.")
@click.pass_context
def compare(
    context: click.Context,
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
    resume: bool,
    tests: tuple[str, ...],
    parameter: tuple[str, ...],
) -> int:
    """Say for each metric whether B is worse than A, better, or no different.

    With --b, A and B are run in turn in one session until everything is decided or the budget is used up. Else give two
    saved results folders, A's first: RESULTS_A RESULTS_B.

    The last line is the verdict. Exit status: 0 no regression, 1 regression, 3 undecided.
    """
    command = shlex.join(["cprlib", *sys.argv[1:]])
    if resume:
        _refuse_with_resume(context)
        folder, kept = latest_kept(out.resolve())
        made = _measure(kept, folder, parallel)
    elif b is not None:
        _refuse(saved, native and lab is not None)
        check_parameters(read_parameters(parameter))
        load_policy(policy)
        brought, other = read_qemu(a, a_firmware), read_qemu(b, b_firmware)
        assert other is not None
        _tests(tests or (CHAIN,), list_tests())
        asked = Asked(
            b=str(other.path),
            a=str(brought.path) if brought else None,
            a_firmware=_text(a_firmware),
            b_firmware=_text(b_firmware),
            base=base,
            budget=budget,
            min_effect=min_effect / 100,
            noise=noise,
            crossing=crossing,
            whole=whole,
            policy=str(Path(policy).resolve()) if policy.endswith(".toml") else policy,
            engine=choose_engine(native, lab, lambda text: click.echo(text, err=True)),
            seed=secrets.randbelow(1 << 31) if seed is None else seed,
            tests=tests or (CHAIN,),
            parameters=parameter,
            command=command,
            started_ns=time.time_ns(),
        )
        made = _measure(Kept(asked), out.resolve(), parallel)
    else:
        made = _saved(saved, a, policy, Effect(min_effect / 100, MIN_EFFECT_MS), command)
    folder = made.folder or new_results_folder(out.resolve())
    write_comparison(made, folder)
    latest = publish(folder)
    click.echo(f"comparison: {latest / PAGE_FILE}", err=True)
    click.echo(comparison_text(made), nl=False)
    return int(made.exit_status)


def _text(path: Path | None) -> str | None:
    return str(path.absolute()) if path else None


def _refuse(saved: Sequence[str], both: bool) -> None:
    if saved:
        raise UsageError(
            f"compare {saved[0]}", "saved results and --b were both given", "name cases to measure with -t"
        )
    if both:
        raise UsageError("compare", "both --native and --lab were given", "give one of them")


def _refuse_with_resume(context: click.Context) -> None:
    given = [name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    foreign = [name for name in given if name not in WITH_RESUME]
    if foreign:
        raise UsageError(
            f"resume a comparison with {foreign[0]}", "what is compared was said when it was begun", "leave it out"
        )


def _measure(kept: Kept, place: Path, parallel: int | None) -> Comparison:
    """Run rounds: of a new comparison, whose folder is made in ``place``, or of one that is there."""
    asked = kept.asked
    given = read_parameters(asked.parameters)
    used = {name: value for name, value in USUAL.items() if name not in given} | given
    first = _qemu(asked.a, asked.a_firmware) if asked.a else None
    second = _qemu(asked.b, asked.b_firmware)
    assets = build_assets(console_progress(), lab=asked.engine is not None, qemu=first, base=asked.base)
    every = list_tests()
    crossings = _tests((CROSSING,), every) if asked.crossing else ()
    measured = _tests(asked.tests, every)
    arms = _arms(assets, second, asked.engine, asked.policy, used, measured, crossings, again=asked.noise)
    sides = [side_of(probe(qemu)) for qemu in (assets.qemu, second)]
    now = tuple(side.sha256 for side in sides)
    if kept.qemus and kept.qemus != now:
        raise UsageError(f"resume {place}", "A or B is another binary than it was", "start a new comparison")
    folder = place if kept.rounds or kept.qemus else new_results_folder(place)
    effect = Effect(asked.min_effect, MIN_EFFECT_MS)
    budget_s = 60 * asked.budget
    policy = load_policy(asked.policy)
    try:
        return run_comparison(
            folder,
            Wanted(arms, sides[0], sides[1], effect, policy, budget_s, asked.whole, asked.seed, asked.command, used),
            replace(kept, qemus=now),
            engine=asked.engine,
            lab_kernel=assets.lab_kernel,
            workers=parallel or (len(os.sched_getaffinity(0)) if asked.engine else 1),
            environment=describe_environment(
                mode="lab" if asked.engine else "native",
                engine=asked.engine or "",
                lab_kernel=assets.lab_kernel,
                accelerator=arms[0].parameters.get("accelerator", "tcg"),
            ),
            say=lambda line: click.echo(line, err=True),
        )
    except KeyboardInterrupt:
        again = shlex.join(["cprlib", "compare", "--resume", "--out", str(folder.parent)])
        click.echo(f"what was measured is kept in {folder}; go on with: {again}", err=True)
        raise


def _qemu(path: str, firmware: str | None) -> QemuBinary:
    return QemuBinary(Path(path), Path(firmware) if firmware else None)


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
