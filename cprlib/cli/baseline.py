"""``cprlib baseline``: the figures of a good QEMU on this machine in a small file, and runs compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from cprlib.campaign.compare import Effect
from cprlib.cli.compare import min_effect_option
from cprlib.cli.options import PATH, command_line, policy_option, publish_results
from cprlib.errors import UsageError
from cprlib.words import printable

RUNS = Path("results")
run_option = click.option("--run", "name", metavar="NAME", help="The run of this name in results/, not the latest.")


@click.group()
def baseline() -> None:
    """Save the figures of a good QEMU on this machine, and compare runs with them.

    RESULTS is the folder of a run, or of several; by default the latest in results/. Several guests of each case are
    needed to tell a difference from noise:

    cprlib run -p chain=4 $(yes tests/functional/test_chain.py | head -n 8)
    """


@baseline.command()
@click.argument("paths", nargs=-1, required=True, metavar="[RESULTS] FILE")
@run_option
@policy_option
def save(paths: tuple[str, ...], name: str | None, policy: str) -> int:
    """Save RESULTS as the baseline FILE, with a description of the machine."""
    from cprlib.campaign.compare.baseline import make_baseline, write_baseline
    from cprlib.verdict.policy_file import load_policy

    results, file = _paths(paths, name)
    made = make_baseline(results, load_policy(policy))
    write_baseline(made, file)
    for case, content in made.cases.items():
        updates = sum(guest.updates for guest in content.guests)
        click.echo(f"{printable(case)}: {len(content.guests)} guests, {updates} updates")
    click.echo(f"baseline: {file}")
    return 0


@baseline.command()
@click.argument("paths", nargs=-1, required=True, metavar="[RESULTS] FILE")
@run_option
@policy_option
@click.option("--anyway", is_flag=True, help="Accept a baseline recorded on another machine.")
@min_effect_option("the baseline")
@click.option("--out", type=PATH, help="Folder for compare.html and compare.json.")
def check(
    paths: tuple[str, ...], name: str | None, policy: str, anyway: bool, min_effect: float, out: Path | None
) -> int:
    """Say whether RESULTS are worse than the baseline FILE; exit status as of cprlib compare."""
    from cprlib.campaign.compare.baseline import check_baseline, read_baseline
    from cprlib.campaign.compare.output import PAGE_FILE, comparison_text, write_comparison
    from cprlib.report.results_folder import new_results_folder
    from cprlib.verdict.policy_file import load_policy

    results, file = _paths(paths, name)
    made = check_baseline(
        results,
        read_baseline(file),
        file,
        load_policy(policy),
        Effect(min_effect / 100),
        anyway=anyway,
        command=command_line(),
    )
    if out is not None:
        folder = new_results_folder(out.resolve())
        write_comparison(made, folder)
        click.echo(f"report: {publish_results(folder) / PAGE_FILE}", err=True)
    click.echo(comparison_text(made), nl=False)
    return made.exit_status


def _paths(paths: Sequence[str], name: str | None) -> tuple[Path, Path]:
    if len(paths) > 2 or (name and len(paths) == 2):
        raise UsageError(
            "find the results", f"too many arguments: {' '.join(paths)}", "give [RESULTS] FILE, or --run NAME FILE"
        )
    from cprlib.report.results_folder import require_results

    results = Path(paths[0]) if len(paths) == 2 else RUNS / (name or "latest")
    return require_results(results), Path(paths[-1])
