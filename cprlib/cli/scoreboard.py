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
    publish_results,
    report_progress,
    resume_session,
    session_options,
)
from cprlib.errors import ExitStatus
from cprlib.files import write_text


@click.command()
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Guests of each row.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Only these rows, e.g. 'series-*' or '*-vhost'.")
@click.option("--page", type=PATH, help="Also write the page to this file, e.g. docs/scoreboard.md.")
@session_options("scoreboard", "scoreboards", "session")
@click.pass_context
def scoreboard(
    context: click.Context,
    runs: int,
    only: tuple[str, ...],
    page: Path | None,
    native: bool,
    lab: str | None,
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

    check_backend("measure the scoreboard", native, lab)
    if resume:
        session, request = resume_session(context, STORE, "page")
    else:
        choose_rows(only)
        load = os.getloadavg()[1]
        engine = choose_engine(native, lab, report_progress)
        request = ScoreboardRequest(runs, only, engine, load, command_line(), time.time_ns())
        session = STORE.begin(out.resolve(), request)
    with hint_resume(context, session):
        rows = run_session(
            session, request, list_tests(), parallel=parallel, progress=console_progress(), say=report_progress
        )
    text = scoreboard_page(rows, request, describe_run(request.engine))
    write_page(session / PAGE_FILE, text)
    if page:
        write_text(page, text)
    click.echo(text, nl=False)
    click.echo(f"page: {publish_results(session) / PAGE_FILE}", err=True)
    return ExitStatus.PASS if all(row.measured for row in rows) else ExitStatus.INCONCLUSIVE
