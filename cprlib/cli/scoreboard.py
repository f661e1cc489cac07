"""``cprlib scoreboard``: figures of stock QEMUs, the series, and the series without each patch, in one table."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from cprlib.cli.options import (
    PATH,
    check_backend,
    command_line,
    hint_resume,
    native_option,
    out_option,
    parallel_option,
    refuse_with_resume,
    report_progress,
)
from cprlib.errors import ExitStatus

RESULTS = Path("results") / "scoreboard"
WITH_RESUME = ("out", "page", "parallel", "resume")


@click.command()
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Guests of each row.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Only these rows, e.g. 'series-*' or '*-vhost'.")
@click.option("--page", type=PATH, help="Also write the page to this file, e.g. docs/scoreboard.md.")
@native_option
@click.option("--lab", is_flag=True, help="Run in labs (uml), without asking cprlib doctor.")
@parallel_option
@out_option(RESULTS, "scoreboards")
@click.option("--resume", is_flag=True, help="Continue the latest session in --out.")
@click.pass_context
def scoreboard(
    context: click.Context,
    runs: int,
    only: tuple[str, ...],
    page: Path | None,
    native: bool,
    lab: bool,
    parallel: int | None,
    out: Path,
    resume: bool,
) -> int:
    """Measure stock QEMUs as Debian ships them, the series, and the series without each of its patches.

    Each row has lost packets per update and direction, interruption with its spread, identity of descriptors, and
    failed updates survived. Prints the page and saves it as scoreboard.md.
    """
    from cprlib.build.progress import console_progress
    from cprlib.campaign.job import list_tests
    from cprlib.campaign.page import write_page
    from cprlib.campaign.scoreboard.page import PAGE_FILE, scoreboard_page
    from cprlib.campaign.scoreboard.plan import STORE, ScoreboardRequest, choose_rows
    from cprlib.campaign.scoreboard.run import run_session
    from cprlib.lab.doctor import choose_engine
    from cprlib.report.environment import describe_run
    from cprlib.report.results_folder import publish

    check_backend("measure the scoreboard", native, "uml" if lab else None)
    top = out.resolve()
    if resume:
        refuse_with_resume(context, WITH_RESUME)
        session = STORE.latest(top)
        request = STORE.read(session)
    else:
        choose_rows(only)
        load = os.getloadavg()[1]
        engine = choose_engine(native, "uml" if lab else None, report_progress)
        request = ScoreboardRequest(runs, only, engine, load, command_line(), time.time_ns())
        session = STORE.begin(top, request)
    with hint_resume("scoreboard", session, out, RESULTS):
        rows = run_session(
            session, request, list_tests(), parallel=parallel, progress=console_progress(), say=report_progress
        )
    text = scoreboard_page(rows, request, describe_run(request.engine))
    for path in filter(None, (session / PAGE_FILE, page)):
        write_page(path, text)
    click.echo(text, nl=False)
    click.echo(f"page: {publish(session) / PAGE_FILE}", err=True)
    return ExitStatus.PASS if all(row.updates for row in rows) else ExitStatus.INCONCLUSIVE
