"""``cprlib soak``: random cases for hours; does any fail, and does the harness stay flat?"""

from __future__ import annotations

import secrets
import shlex
import sys
import time
from pathlib import Path

import click

from cprlib.build.assets import DEFAULT_BASE
from cprlib.build.progress import console_progress
from cprlib.build.series import find_base
from cprlib.campaign.mutation.tests import list_tests
from cprlib.campaign.soak.draw import read_choices
from cprlib.campaign.soak.record import Wanted
from cprlib.campaign.soak.result import SoakResult
from cprlib.campaign.soak.soak import latest_soak, new_soak, read_wanted, seconds_left
from cprlib.campaign.soak.soak import soak as run_soak
from cprlib.campaign.soak.soak_html import PAGE_FILE
from cprlib.campaign.soak.soak_text import soak_text
from cprlib.cli.resuming import refuse_beside_resume
from cprlib.errors import UsageError
from cprlib.lab.backend import KVM_LAB_PARAMETERS, choose_engine
from cprlib.lab.engines import ENGINES
from cprlib.qemu.binary import QemuBinary, probe
from cprlib.report.results_folder import publish
from cprlib.testing.parameters import check_parameters  # the suite's own, so that both refuse the same
from cprlib.verdict.policy_file import load_policy

WITH_RESUME = ("hours", "out", "parallel", "resume")
RESULTS = Path("results") / "soak"
LONGEST_HOURS = 24.0 * 365
some_path = click.Path(path_type=Path)


@click.command()
@click.option("--hours", type=float, help="How long; a fraction is one. With --resume: so long from now on.")
@click.option("--seed", type=click.IntRange(0), help="Of the draws; one is chosen, and told, without it.")
@click.option("--resume", is_flag=True, help="Go on with the latest soak in --out, with the cases it would have had.")
@click.option("--qemu", type=some_path, help="QEMU to test; the project's own build otherwise.")
@click.option("--firmware", type=some_path, help="Firmware folder of --qemu (its -L).")
@click.option("--base", default=DEFAULT_BASE, show_default=True, help="Base of the project's own QEMU.")
@click.option("--policy", default="default", show_default=True, help="A policy of fixtures/policies, or a TOML file.")
@click.option("-t", "--tag", multiple=True, help="Only tests with this Avocado tag, e.g. queues:4.")
@click.option("--native", is_flag=True, help="Run on this host, whatever cprlib doctor says.")
@click.option(
    "--lab", is_flag=False, flag_value="uml", metavar="[ENGINE]", help=f"Run in labs: {' or '.join(ENGINES)}."
)
@click.option("--parallel", type=click.IntRange(1), help="Tests at once; one per core in the lab, else one.")
@click.option("--keep", type=click.IntRange(0), default=20, show_default=True, help="Folders of cases kept at most.")
@click.option("--keep-mib", type=click.IntRange(0), default=1024, show_default=True, help="What they hold at most.")
@click.option("--out", type=some_path, default=RESULTS, show_default=True, help="Folder of all soaks.")
@click.pass_context
def soak(
    context: click.Context,
    hours: float | None,
    seed: int | None,
    resume: bool,
    qemu: Path | None,
    firmware: Path | None,
    base: str,
    policy: str,
    tag: tuple[str, ...],
    native: bool,
    lab: str | None,
    parallel: int | None,
    keep: int,
    keep_mib: int,
    out: Path,
) -> int:
    """Repeat random cases of the suite until the time is over: none may fail, and nothing of the harness may grow.

    Prints a summary and saves it as soak.json and soak.html.
    """
    if hours is not None and not 0 < hours <= LONGEST_HOURS:
        raise UsageError(f"soak for {hours:g} hours", f"it has to be above 0, and at most {LONGEST_HOURS:g}")
    if native and lab:
        raise UsageError("soak", "both --native and --lab were given", "give one of them")
    if lab is not None and lab not in ENGINES:
        raise UsageError(f"use lab engine {lab!r}", "no such engine", f"choose one of {', '.join(ENGINES)}")
    top, command = out.resolve(), shlex.join(["cprlib", *sys.argv[1:]])
    if resume:
        names = {"tag": "tag", "keep_mib": "keep-mib"}
        refuse_beside_resume(context, WITH_RESUME, "a soak", "what it is about", names)
        folder = latest_soak(top)
        wanted, tests = read_wanted(folder), list_tests()
        seconds = seconds_left(folder, wanted, hours)
    else:
        if hours is None:
            raise UsageError("soak", "it was not said for how long", "give --hours, e.g. --hours 1")
        find_base(base)
        load_policy(policy)
        if qemu:
            probe(QemuBinary(qemu.absolute(), firmware.absolute() if firmware else None))
        tests = list_tests(tags=tag)
        engine = choose_engine(native, lab, _say)
        choices = read_choices()
        if engine == "kvm":
            choices = choices.without(*KVM_LAB_PARAMETERS)
        for name, values in choices.values.items():
            for value in values:
                check_parameters({name: value})
        wanted = Wanted(
            seed=secrets.randbelow(10**9) if seed is None else seed,
            hours=hours,
            tests=tuple(test.id for test in tests),
            choices=choices,
            engine=engine,
            base=base,
            qemu=str(qemu.absolute()) if qemu else "",
            firmware=str(firmware.absolute()) if firmware else "",
            policy=str(Path(policy).resolve()) if Path(policy).suffix == ".toml" else policy,
            tags=tag,
            keep=keep,
            keep_mib=keep_mib,
            command=command,
            started_ns=time.time_ns(),
        )
        folder, seconds = new_soak(top, wanted), hours * 3600
    _say(f"seed {wanted.seed}; {len(wanted.tests)} tests to draw from; in {folder}")
    try:
        result = run_soak(
            folder,
            wanted,
            tests,
            seconds,
            parallel=parallel,
            command=command,
            progress=console_progress(),
            say=_say,
            show=_show,
        )
    except KeyboardInterrupt:
        again = shlex.join(["cprlib", "soak", "--resume", *(["--out", str(out)] if out != RESULTS else [])])
        _say(f"what was run is kept in {folder}; go on with: {again}")
        raise
    return int(result.exit_status)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _show(result: SoakResult) -> None:
    latest = publish(result.folder)
    click.echo(soak_text(result))
    click.echo(f"soak: {latest / PAGE_FILE}")
