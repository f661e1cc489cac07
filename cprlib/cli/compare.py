"""``cprlib compare``: is one QEMU worse than another? A and B in turn in one session, or two saved results."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cprlib.campaign.compare import MIN_EFFECT, Effect
from cprlib.cli.options import (
    PATH,
    Command,
    Number,
    base_option,
    check_backend,
    check_nic_properties,
    command_line,
    hint_resume,
    lab_option,
    parameter_option,
    policy_option,
    publish_results,
    read_parameters,
    read_qemu,
    refuse_base,
    refuse_options,
    report_progress,
    resume_session,
    session_options,
)
from cprlib.errors import UsageError

if TYPE_CHECKING:
    from cprlib.campaign.compare.comparison import Comparison
    from cprlib.campaign.compare.session import CompareRequest
    from cprlib.campaign.job import SuiteTest


def min_effect_option(of: str) -> Callable[[Command], Command]:
    """``--min-effect``, in percent of A or of the baseline."""
    return click.option(
        "--min-effect",
        type=Number(1, 1000),
        default=100 * MIN_EFFECT,
        show_default=True,
        help=f"Percent of {of}: the smallest difference of a duration that matters.",
    )


@click.command()
@click.argument("saved", nargs=-1, metavar="[RESULTS_A RESULTS_B]")
@click.option("--a", "a", type=PATH, help="QEMU to compare with; by default the project's own build.")
@click.option("--b", "b", type=PATH, help="QEMU that may be worse.")
@click.option("--a-firmware", type=PATH, help="Firmware folder of --a (its -L).")
@click.option("--b-firmware", type=PATH, help="Firmware folder of --b.")
@base_option
@click.option("--budget", type=Number(0.1), default=10.0, show_default=True, help="Minutes for all rounds.")
@min_effect_option("A")
@click.option("--noise", is_flag=True, help="Also compare A with itself in the same rounds.")
@click.option("--a-to-b/--no-a-to-b", default=True, help="Also update from A to B, in the first two rounds.")
@click.option("--whole", is_flag=True, help="Use the whole budget, also when everything is decided.")
@policy_option
@click.option("--seed", type=int, help="Of the random order; chosen without it.")
@session_options("compare", "comparisons", "interrupted comparison", lab_option)
@click.option("-t", "--test", "tests", multiple=True, metavar="CASE", help="Measure this case; by its id.")
@parameter_option
@click.pass_context
def compare(
    context: click.Context,
    /,
    saved: tuple[str, ...],
    a: Path | None,
    b: Path | None,
    min_effect: float,
    policy: str,
    parallel: int | None,
    out: Path,
    resume: bool,
    **options: Any,
) -> int:
    """Say for each metric whether B is worse than A, better, or no different.

    With --b, A and B run in turn in one session until everything is decided or the budget is used up. Without, give two
    saved results folders, A's first: RESULTS_A RESULTS_B.

    The last line is the verdict. Exit status: 0 no regression, 1 regression, 3 undecided.
    """
    from cprlib.campaign.compare.output import PAGE_FILE, comparison_text, write_comparison
    from cprlib.campaign.compare.session import STORE, read_state
    from cprlib.campaign.job import list_tests
    from cprlib.report.results_folder import new_results_folder

    top, session = out.resolve(), None
    if resume:
        session, request = resume_session(context, STORE)
        read_state(session)  # refuse one that has ended before its tests are listed
        made = _run(context, session, request, list_tests(), parallel)
    elif b is not None:
        if saved:
            raise UsageError(
                f"compare {saved[0]}", "saved results and --b were both given", "name cases to measure with -t"
            )
        refuse_base(context, "--a")
        suite = list_tests()
        request = _request(suite, a=a, b=b, min_effect=min_effect, policy=policy, **options)
        session = STORE.begin(top, request)
        made = _run(context, session, request, suite, parallel)
    else:
        if a is None and len(saved) == 2:
            happened = "saved results are compared as they are"
            refuse_options(context, "compare saved results", happened, kept=("saved", "min_effect", "policy", "out"))
        made = _saved(saved, a, policy, Effect(min_effect / 100))
    folder = session or new_results_folder(top)
    write_comparison(made, folder)
    latest = publish_results(folder)
    click.echo(f"report: {latest / PAGE_FILE}", err=True)
    click.echo(comparison_text(made), nl=False)
    return made.exit_status


def _request(
    suite: Sequence[SuiteTest],
    *,
    a: Path | None,
    a_firmware: Path | None,
    b: Path | None,
    b_firmware: Path | None,
    min_effect: float,
    policy: str,
    native: bool,
    lab: str | None,
    seed: int | None,
    tests: tuple[str, ...],
    parameter: tuple[str, ...],
    **options: Any,
) -> CompareRequest:
    """A new session; everything is checked before anything is built.

    :param suite: its tests.
    :param min_effect: in percent.
    :param options: members of the request.
    """
    from cprlib.campaign.compare.session import UPDATES_CASE, CompareRequest, find_measured
    from cprlib.lab.doctor import choose_engine
    from cprlib.lab.engines import absolute_policy
    from cprlib.testing.parameters import check_parameters
    from cprlib.verdict.policy_file import load_policy

    check_backend("compare", native, lab)
    parameters = read_parameters(parameter)
    check_parameters(parameters)
    load_policy(policy)
    own_qemu, other = read_qemu(a, a_firmware), read_qemu(b, b_firmware)
    assert other is not None
    check_nic_properties(filter(None, [own_qemu, other]), parameters)
    tests = tests or (UPDATES_CASE,)
    find_measured(tests, suite)
    return CompareRequest(
        **options,
        a=own_qemu,
        b=other,
        min_effect=min_effect / 100,
        policy=absolute_policy(policy),
        engine=choose_engine(native, lab, report_progress),
        seed=secrets.randbelow(1 << 31) if seed is None else seed,
        tests=tests,
        parameters=parameters,
        command=command_line(),
        started_ns=time.time_ns(),
    )


def _run(
    context: click.Context, session: Path, request: CompareRequest, suite: Sequence[SuiteTest], parallel: int | None
) -> Comparison:
    from cprlib.build.progress import console_progress
    from cprlib.campaign.compare.run import compare as run_session

    report_progress(f"seed {request.seed}; in {session}")
    with hint_resume(context, session):
        return run_session(session, request, suite, parallel=parallel, progress=console_progress(), say=report_progress)


def _saved(saved: Sequence[str], a: Path | None, policy: str, effect: Effect) -> Comparison:
    from cprlib.campaign.compare.comparison import compare_saved
    from cprlib.report.results_folder import require_results
    from cprlib.verdict.policy_file import load_policy

    if a is not None and saved:
        raise UsageError("compare saved results", "--a needs --b", "leave --a out to compare saved results")
    if a is not None or len(saved) != 2:
        raise UsageError(
            "compare",
            "neither --b nor two saved results were given",
            "cprlib compare --a QEMU_A --b QEMU_B, or cprlib compare RESULTS_A RESULTS_B",
        )
    first, second = (require_results(Path(name)) for name in saved)
    return compare_saved(first, second, load_policy(policy), effect, command_line())
