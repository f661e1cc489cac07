"""``cprlib report``: judge a results folder again and rewrite its report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cprlib.cli import completion
from cprlib.cli.options import PATH, command_line, publish_results, refuse_options
from cprlib.errors import UsageError

if TYPE_CHECKING:
    from cprlib.report.run_report import RunReport
    from cprlib.verdict.policy import Policy

DEFAULT_OUT = Path("results")


@click.command()
@click.argument("results", nargs=-1, type=PATH)
@click.option(
    "--policy",
    shell_complete=completion.policies,
    help="A policy of fixtures/policies, or a TOML file.  [default: the policy of the run]",
)
@click.option("--format", "format_", type=click.Choice(["table", "md"]), default="table", show_default=True)
@click.option(
    "--index",
    is_flag=False,
    flag_value="results",
    metavar="[DIR]",
    type=PATH,
    help="Only write the page with the history of all runs in DIR (results), index.html.",
)
@click.option("--merge", is_flag=True, help="Join RESULTS of the shards of a matrix into one run, in --out.")
@click.option("--out", type=PATH, help="Folder of all runs, for --merge.  [default: results]")
@click.pass_context
def report(
    context: click.Context,
    results: tuple[Path, ...],
    policy: str | None,
    format_: str,
    index: Path | None,
    merge: bool,
    out: Path | None,
) -> int:
    """Judge the cases in RESULTS by a policy, write the files of the report, and print a summary.

    RESULTS is the folder of a run, by default results/latest; with --merge the folders of all shards.
    """
    from cprlib.lab.job_results import collect_interrupted
    from cprlib.report.build_report import build_report
    from cprlib.report.history import write_index
    from cprlib.report.results_folder import LATEST
    from cprlib.report.summary import markdown_summary, result_table

    if index is not None:
        refuse_options(context, "write the page of all runs", "it is only that page", kept=("index",))
        click.echo(f"history: {write_index(index.resolve())}")
        return 0
    if merge:
        made = _merged(results, _policy(policy, results), out or DEFAULT_OUT)
    elif out or len(results) > 1:
        given = "--out is given" if out else f"{len(results)} folders are given"
        raise UsageError("report on a run", given, "give one folder, or --merge to join several")
    else:
        folder = (results[0] if results else DEFAULT_OUT / LATEST).resolve()
        _require_run(folder)
        collect_interrupted(folder)
        made = build_report(folder, _policy(policy, [folder]))
    click.echo(markdown_summary(made) if format_ == "md" else result_table(made))
    return int(made.exit_status)


def _require_run(folder: Path) -> None:
    """Refuse a folder that is no run's: a report would write its files there.

    :raises UsageError: there is no such folder, or it has neither cases nor a report.
    """
    from cprlib.report.results_folder import CASES, UNFINISHED, require_results
    from cprlib.report.run_json import RUN_FILE

    require_results(folder, "report on")
    if not any((folder / name).exists() for name in (CASES, RUN_FILE, UNFINISHED)):
        raise UsageError(f"report on {folder}", "it holds no run", "give the folder of a run, e.g. results/latest")


def _policy(name: str | None, runs: Sequence[Path]) -> Policy:
    """The policy with a name; without one that of the runs, and ``default`` when they have none."""
    from cprlib.report.run_json import read_policy
    from cprlib.verdict.policy_file import load_policy

    known = [policy for run in runs if not name and (policy := read_policy(run))]
    if any(policy != known[0] for policy in known):
        names = ", ".join(policy.name for policy in known)
        raise UsageError("merge shards", f"they were judged by different policies: {names}", "give --policy")
    return known[0] if known else load_policy(name or "default")


def _merged(shards: Sequence[Path], policy: Policy, out: Path) -> RunReport:
    """The report on all shards, in a results folder of its own."""
    from cprlib.report.build_report import build_report
    from cprlib.report.matrix import merge_results
    from cprlib.report.results_folder import new_results_folder
    from cprlib.report.run_json import read_machine

    if not shards:
        raise UsageError("merge shards", "no folder is given", "give the results folder of each shard")
    folders = [folder.resolve() for folder in shards]
    commands = [known[1] for folder in folders if (known := read_machine(folder)) and known[1]]
    results = new_results_folder(out.resolve())
    try:
        merge_results(folders, results)
        made = build_report(results, policy, command=commands[0] if commands else command_line())
    except BaseException:  # also Ctrl-C: the shards still have everything
        shutil.rmtree(results, ignore_errors=True)
        raise
    click.echo(f"merged into {publish_results(results)}", err=True)
    return made
