"""``cprlib report``: judge a results folder again and write its report anew."""

from __future__ import annotations

from pathlib import Path

import click

from cprlib.cli import completion
from cprlib.report.build import build_report
from cprlib.report.history_page import write_index
from cprlib.report.markdown import markdown_summary
from cprlib.report.table import result_table
from cprlib.verdict.policy_file import load_policy


@click.command()
@click.argument("results", type=click.Path(path_type=Path), default=Path("results/latest"))
@click.option(
    "--policy",
    default="default",
    show_default=True,
    shell_complete=completion.policies,
    help="A policy of fixtures/policies, or a TOML file.",
)
@click.option("--format", "shape", type=click.Choice(["table", "md"]), default="table", show_default=True)
@click.option(
    "--index",
    is_flag=False,
    flag_value="results",
    metavar="[DIR]",
    type=click.Path(path_type=Path),
    help="Only write the page with the history of all runs in DIR (results), index.html.",
)
def report(results: Path, policy: str, shape: str, index: Path | None) -> int:
    """Judge the cases in RESULTS by a policy, write run.json and report.html, and print a summary."""
    if index is not None:
        click.echo(f"history: {write_index(index.resolve())}")
        return 0
    made = build_report(results.resolve(), load_policy(policy))
    click.echo(markdown_summary(made) if shape == "md" else result_table(made))
    return int(made.exit_status)
