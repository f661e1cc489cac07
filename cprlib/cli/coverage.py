"""``cprlib coverage``: which lines of the series the suite runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cprlib.build.series import find_base, find_series
from cprlib.cli import completion
from cprlib.cli.options import (
    PATH,
    avocado_reference,
    base_option,
    check_backend,
    check_nic_properties,
    command_line,
    hint_results,
    native_option,
    out_option,
    parallel_option,
    parameter_option,
    publish_results,
    read_parameters,
    refuse_options,
    report_progress,
    uml_option,
)

if TYPE_CHECKING:
    from cprlib.qemu.binary import QemuBinary
    from cprlib.report.environment import Environment

POLICY = "default"


@click.command()
@click.argument("tests", nargs=-1, shell_complete=completion.tests)
@base_option
@native_option
@uml_option
@parallel_option
@parameter_option
@out_option(Path("results") / "coverage", "coverage runs")
@click.option(
    "--from",
    "stored",
    multiple=True,
    type=PATH,
    help="Add the cases of an earlier coverage run, by its results folder; without TESTS, run nothing: a single folder "
    "gets the report. May be given several times.",
)
@click.pass_context
def coverage(
    context: click.Context,
    tests: tuple[str, ...],
    base: str,
    native: bool,
    lab: str | None,
    parallel: int | None,
    parameter: tuple[str, ...],
    out: Path,
    stored: tuple[Path, ...],
) -> int:
    """Run the suite, or TESTS of it, on a QEMU that counts, and report which lines of the series run.

    Writes coverage.json, coverage.html and coverage.md. Fails when a line neither runs nor has a reason in
    fixtures/coverage.toml.
    """
    from cprlib.build.coverage import build_coverage
    from cprlib.build.progress import console_progress
    from cprlib.campaign.coverage.collect import add_cases, collect
    from cprlib.campaign.coverage.make_report import load_reasons, make_report
    from cprlib.campaign.coverage.output import PAGE_FILE, report_text, write_report
    from cprlib.lab.doctor import choose_engine
    from cprlib.report.environment import describe_machine
    from cprlib.report.formatting import utc
    from cprlib.report.results_folder import new_results_folder, require_results
    from cprlib.report.run_json import read_machine
    from cprlib.report.run_report import EXIT_STATUS
    from cprlib.testing.parameters import check_parameters

    check_backend("measure coverage", native, lab)
    references = [avocado_reference(test) for test in tests]
    earlier = [require_results(folder).resolve() for folder in stored]
    find_base(base)
    parameters, reasons = read_parameters(parameter), load_reasons(base)
    check_parameters(parameters)
    started_ns = time.time_ns()
    runs = bool(references or not earlier)
    makes_folder = runs or len(earlier) > 1
    if not runs:
        kept = ("base", "stored", *(("out",) if makes_folder else ()))
        refuse_options(context, "report on earlier runs", "nothing is run", kept=kept)
    engine = choose_engine(native, lab, report_progress) if runs else None
    build = build_coverage(base, console_progress())
    check_nic_properties([build.qemu], parameters)
    results = new_results_folder(out.resolve()) if makes_folder else earlier[0]
    command = f"cprlib coverage --base {base} --from"
    with hint_results(results, command) if runs else contextlib.nullcontext():
        if makes_folder:
            add_cases(results, earlier)
        if runs:
            environment = _run_suite(results, build.qemu, references, parameters, engine, parallel)
        else:
            machine = read_machine(earlier[0])
            environment = machine[0] if machine else describe_machine()
        report_progress("reading the counters of the cases")
        report = make_report(
            base,
            find_series(base),
            build,
            collect(build, results),
            reasons,
            environment=environment,
            command=command_line(),
            started=utc(started_ns) or "",
            finished=utc(time.time_ns()) or "",
        )
        write_report(results, report)
    shown = publish_results(results) if makes_folder else results
    click.echo(report_text(report))
    click.echo(f"report: {shown / PAGE_FILE}")
    return int(EXIT_STATUS[report.verdict])


def _run_suite(
    results: Path,
    qemu: QemuBinary,
    references: list[str],
    parameters: Mapping[str, str],
    engine: str | None,
    parallel: int | None,
) -> Environment:
    """Run the suite, print the table of its results, and describe where it ran."""
    from cprlib.build.assets import build_assets
    from cprlib.build.progress import console_progress
    from cprlib.lab.avocado_run import SuiteRun, run_and_collect
    from cprlib.lab.engines import asset_parameters, lab_environment
    from cprlib.report.build_report import build_report
    from cprlib.report.environment import describe_run
    from cprlib.report.summary import result_table
    from cprlib.verdict.policy_file import load_policy

    assets = build_assets(console_progress(), lab=engine == "uml", qemu=qemu)
    environment = describe_run(engine, lab_kernel=assets.lab_kernel, accelerator=parameters.get("accelerator", ""))
    run_and_collect(
        SuiteRun(
            results=results,
            tests=references,
            parameters={**asset_parameters(assets, engine, POLICY), **parameters},
            engine=engine,
            parallel=parallel,
            environment=lab_environment(assets, engine),
        )
    )
    report = build_report(results, load_policy(POLICY), environment=environment, command=command_line())
    click.echo(result_table(report))
    return environment
