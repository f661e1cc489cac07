"""``cprlib soak``: random cases for hours; does a case fail, does the harness grow?"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cprlib.build.series import find_base
from cprlib.cli.options import (
    Number,
    base_option,
    check_backend,
    command_line,
    firmware_option,
    hint_resume,
    lab_option,
    policy_option,
    publish_results,
    qemu_option,
    read_qemu,
    refuse_base,
    report_progress,
    resume_session,
    session_options,
    tag_option,
)
from cprlib.errors import UsageError

if TYPE_CHECKING:
    from cprlib.campaign.job import SuiteTest
    from cprlib.campaign.soak.result import SoakRequest, SoakResult

LONGEST_HOURS = 24.0 * 365


@click.command()
@click.option(
    "--hours",
    type=Number(0, LONGEST_HOURS, min_open=True),
    help="Length, e.g. 0.5. With --resume: length of this session.",
)
@click.option("--seed", type=click.IntRange(0), help="Of the draws; chosen and printed without it.")
@qemu_option
@firmware_option
@base_option
@policy_option
@tag_option
@click.option(
    "--keep",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Keep at most this many folders of cases that did not pass.",
)
@click.option(
    "--keep-mib", type=click.IntRange(0), default=1024, show_default=True, help="At most this many MiB together."
)
@session_options("soak", "soaks", "soak, with the same draws,", lab_option)
@click.pass_context
def soak(
    context: click.Context, /, hours: float | None, resume: bool, parallel: int | None, out: Path, **options: Any
) -> int:
    """Run random cases of the suite until the time is over. No case may fail, no resource of the harness may grow.

    Prints a summary and saves it as soak.json and soak.html.
    """
    from cprlib.build.progress import console_progress
    from cprlib.campaign.job import list_tests
    from cprlib.campaign.soak.result import STORE
    from cprlib.campaign.soak.run import seconds_left
    from cprlib.campaign.soak.run import soak as run_session

    check_backend("soak", options["native"], options["lab"])
    if resume:
        session, request = resume_session(context, STORE, "hours")
        tests = list_tests()
        seconds = seconds_left(session, request, hours)
    else:
        if hours is None:
            raise UsageError("soak", "it has no length", "give --hours, e.g. --hours 1")
        refuse_base(context, "--qemu")
        request, tests = _request(hours, **options)
        session, seconds = STORE.begin(out.resolve(), request), hours * 3600
    report_progress(f"seed {request.seed}; {len(request.tests)} tests to draw from; in {session}")
    with hint_resume(context, session):
        result = run_session(
            session,
            request,
            tests,
            seconds,
            parallel=parallel,
            command=command_line(),
            progress=console_progress(),
            say=report_progress,
            show=_show,
        )
    return int(result.exit_status)


def _request(
    hours: float,
    *,
    seed: int | None,
    qemu: Path | None,
    firmware: Path | None,
    policy: str,
    tag: tuple[str, ...],
    native: bool,
    lab: str | None,
    **options: Any,
) -> tuple[SoakRequest, tuple[SuiteTest, ...]]:
    """A new session, and the tests that it draws from; everything is checked before anything is built.

    :param options: members of the request.
    """
    from cprlib.campaign.job import list_tests
    from cprlib.campaign.soak.draw import read_choices
    from cprlib.campaign.soak.result import SoakRequest
    from cprlib.lab.doctor import choose_engine
    from cprlib.lab.engines import absolute_policy, lab_parameters
    from cprlib.testing.parameters import check_parameters
    from cprlib.verdict.policy_file import load_policy

    find_base(options["base"])
    load_policy(policy)
    own_qemu = read_qemu(qemu, firmware)
    tests = list_tests(tags=tag)
    engine = choose_engine(native, lab, report_progress)
    choices = read_choices()
    choices = choices.without(*lab_parameters(engine))
    for name, values in choices.values.items():
        for value in values:
            check_parameters({name: value})
    request = SoakRequest(
        **options,
        seed=secrets.randbelow(10**9) if seed is None else seed,
        hours=hours,
        tests=tuple(test.id for test in tests),
        choices=choices,
        engine=engine,
        qemu=own_qemu,
        policy=absolute_policy(policy),
        tags=tag,
        command=command_line(),
        started_ns=time.time_ns(),
    )
    return request, tests


def _show(result: SoakResult) -> None:
    from cprlib.campaign.soak.output import PAGE_FILE, report_text

    latest = publish_results(result.folder)
    click.echo(report_text(result))
    click.echo(f"report: {latest / PAGE_FILE}")
