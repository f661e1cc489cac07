"""``cprlib run``: build what is missing, run the suite, print the verdict."""

from __future__ import annotations

import importlib
import shlex
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cprlib.build.series import DEFAULT_BASE, find_base
from cprlib.cli import completion
from cprlib.cli.options import (
    PATH,
    avocado_reference,
    base_option,
    check_backend,
    check_nic_properties,
    command_line,
    file_of_test,
    firmware_option,
    hint_results,
    lab_option,
    native_option,
    out_option,
    parallel_option,
    parameter_option,
    policy_option,
    publish_results,
    qemu_arg_option,
    qemu_option,
    read_parameters,
    read_qemu,
    refuse_base,
    report_progress,
    tag_option,
)
from cprlib.errors import CprlibError, UsageError
from cprlib.lab.engine import ENGINES

if TYPE_CHECKING:
    from cprlib.build.assets import Assets
    from cprlib.campaign.matrix import MatrixRun
    from cprlib.lab.avocado_run import SuiteRun
    from cprlib.qemu.binary import QemuBinary
    from cprlib.report.environment import Environment
    from cprlib.report.run_report import RunReport
    from cprlib.verdict.policy import Policy


@click.command()
@click.argument("tests", nargs=-1, shell_complete=completion.tests)
@qemu_option
@firmware_option
@base_option
@click.option(
    "--target-base",
    shell_complete=completion.bases,
    help="Also update to the project's own QEMU on this base, and back; e.g. 10.2.",
)
@click.option("--target-qemu", type=PATH, help="Also update to this QEMU, and back.")
@click.option("--target-firmware", type=PATH, help="Firmware folder of --target-qemu.")
@policy_option
@native_option
@lab_option
@out_option(Path("results"), "runs")
@parameter_option
@qemu_arg_option
@parallel_option
@tag_option
@click.option("--matrix", metavar="NAME|FILE", help="Run at each point of a matrix: push, night, or a file.")
@click.option("--points", multiple=True, metavar="PATTERN", help="Only these points of it, e.g. '*-cpr-10.*'.")
@click.option("--shard", metavar="N/COUNT", help="Only this part of the points; cprlib report --merge joins the parts.")
@click.option("--baseline", type=PATH, help="File of cprlib baseline save, for max_ratio of a policy.")
@click.option("--anyway", is_flag=True, help="Accept a baseline recorded on another machine.")
@click.option(
    "--repeat/--no-repeat",
    default=None,
    help="Run inconclusive tests once more, alone; the default, but not with --matrix.",
)
@click.pass_context
def run(
    context: click.Context,
    /,
    tests: tuple[str, ...],
    qemu: Path | None,
    firmware: Path | None,
    base: str,
    target_base: str | None,
    target_qemu: Path | None,
    target_firmware: Path | None,
    policy: str,
    native: bool,
    lab: str | None,
    out: Path,
    parameter: tuple[str, ...],
    qemu_arg: tuple[str, ...],
    parallel: int | None,
    tag: tuple[str, ...],
    matrix: str | None,
    points: tuple[str, ...],
    shard: str | None,
    baseline: Path | None,
    anyway: bool,
    repeat: bool | None,
) -> int:
    """Run the functional suite, or TESTS of it, and report whether a live update loses packets.

    TESTS are Avocado references: tests/functional/test_cpr_tap.py, optionally with :CLASS.METHOD.
    """
    if lab is not None and lab not in ENGINES and file_of_test(lab):
        tests, lab = (lab, *tests), "uml"  # `--lab TEST`: the word belongs to the tests
    check_backend("run the suite", native, lab)
    refuse_base(context, "--qemu")
    references = [avocado_reference(test) for test in tests]
    if target_base and target_qemu:
        raise UsageError("choose a target", "both --target-base and --target-qemu are given", "give one of them")
    parameters = read_parameters(parameter, qemu_arg)
    plan = _plan(matrix, points, shard, parameters, own_qemu=qemu is not None, repeat=repeat)
    references = references or ([plan.test] if plan else [])
    from cprlib.campaign.compare.baseline import interruption_ms, read_run_baseline, require_same_machine
    from cprlib.campaign.job import require_tests
    from cprlib.lab.avocado_run import SuiteRun
    from cprlib.lab.doctor import choose_engine
    from cprlib.lab.engines import asset_parameters, lab_environment
    from cprlib.qemu.binary import require_accelerator
    from cprlib.qemu.command_line import ACCELERATORS
    from cprlib.report.environment import describe_run
    from cprlib.report.results_folder import new_results_folder
    from cprlib.report.run_json import record_begin
    from cprlib.verdict.policy_file import load_policy

    judged_by = load_policy(policy)
    if anyway and not baseline:
        raise UsageError("use --anyway", "no baseline is given", "give --baseline FILE")
    saved = read_run_baseline(baseline, judged_by) if baseline else None  # before anything is built
    if target_base:
        find_base(target_base)
    if tests or tag:
        require_tests(references, tag)
    own_qemu, own_target = read_qemu(qemu, firmware), read_qemu(target_qemu, target_firmware)
    engine = choose_engine(native, lab, report_progress)
    bases = () if own_qemu else _bases(plan, base, engine)
    assets, qemus, target = _build(own_qemu or base, bases, own_target or target_base, lab=engine == "uml")
    check_nic_properties(
        [assets.qemu, *qemus.values(), *filter(None, [target])],
        parameters,
        {name for point in (plan.own if plan else ()) for name in point.values},
    )
    given = asset_parameters(assets, engine, policy) | (target.parameters("target_") if target else {}) | parameters
    if own_qemu:
        require_accelerator(own_qemu, given.get("accelerator", ACCELERATORS[0]))
    environment = describe_run(engine, lab_kernel=assets.lab_kernel, accelerator=given.get("accelerator", ""))
    if saved and baseline and not anyway:
        require_same_machine(saved, environment, baseline)
    results = new_results_folder(out.resolve())
    command = command_line()
    record_begin(results, judged_by, environment, command, interruption_ms(saved) if saved else None)
    if plan:
        plan.record(results, environment)
    elif not own_qemu:
        given["base"] = base
    suite = SuiteRun(
        results=results,
        tests=references,
        parameters=given,
        engine=engine,
        parallel=parallel,
        extra=[f"--filter-by-tags={name}" for name in tag],
        environment=lab_environment(assets, engine),
        matrix=plan.write(results, given, qemus, base) if plan else None,
    )
    return _run_and_judge(suite, judged_by, environment, command, repeat=repeat is not False and not plan)


def _build(
    source: QemuBinary | str, bases: Sequence[str], target: QemuBinary | str | None, *, lab: bool
) -> tuple[Assets, Mapping[str, QemuBinary], QemuBinary | None]:
    """Build what is missing: what every test needs, the QEMUs of a matrix by base, and the target.

    :param source, target: the user's own QEMU, or the base of the project's; target: of updates to another QEMU.
    :param bases: of a matrix.
    """
    from cprlib.build.assets import build_assets, build_base
    from cprlib.build.progress import console_progress
    from cprlib.build.qemu import build_qemu

    progress = console_progress()
    if isinstance(source, str):
        assets = build_assets(progress, lab=lab, base=bases[0] if bases else source)
    else:
        assets = build_assets(progress, lab=lab, qemu=source)
    qemus = {name: build_base(name, progress) for name in bases}
    return assets, qemus, build_qemu(target, True, progress) if isinstance(target, str) else target


def _run_and_judge(suite: SuiteRun, policy: Policy, environment: Environment, command: str, *, repeat: bool) -> int:
    """Run the suite, write its report and print the table.

    :param repeat: run inconclusive tests once more.
    """
    from cprlib.lab.avocado_run import repeat_tests, run_and_collect

    report_command = f"cprlib report --policy {shlex.quote(suite.parameters.get('policy', policy.name))}"
    # The import takes half a second, while this process waits for the tests.
    threading.Thread(target=importlib.import_module, args=("cprlib.report.build_report",), daemon=True).start()
    with hint_results(suite.results, report_command):
        retries = run_and_collect(suite)
    from cprlib.report.build_report import judge_results, write_report
    from cprlib.report.history import INDEX_FILE
    from cprlib.report.summary import result_table

    if not (suite.results.parent / INDEX_FILE).exists():
        _write_history(suite.results.parent)  # the report links to it; this run is added below

    def judge() -> RunReport:
        ran = replace(environment, lab_retries=retries)
        return judge_results(suite.results, policy, environment=ran, command=command)

    report = judge()
    if repeat and (tries := report.to_repeat):
        report_progress("Inconclusive tests are run once more, alone.")
        with hint_results(suite.results, report_command):
            retries += repeat_tests(suite, tries)
        report = judge()
    write_report(report)
    latest = publish_results(suite.results)
    click.echo(result_table(report))
    click.echo(f"report: {latest / 'report.html'}")
    _write_history(suite.results.parent)  # draws plots of all cases
    return int(report.exit_status)


def _write_history(folder: Path) -> None:
    """Write the page of all runs; an error in it does not change the result of this run."""
    from cprlib.report.history import write_index

    try:
        write_index(folder)
    except (CprlibError, OSError, ValueError) as error:
        click.echo(f"cprlib: the page of all runs is not written: {' '.join(str(error).split())}", err=True)


def _plan(
    matrix: str | None,
    points: Sequence[str],
    shard: str | None,
    parameters: Mapping[str, str],
    *,
    own_qemu: bool,
    repeat: bool | None,
) -> MatrixRun | None:
    """The points of the matrix; None without one. They and the parameters are checked before anything is built."""
    from cprlib.testing.parameters import check_parameters

    check_parameters(parameters)
    if matrix is None:
        if points or shard:
            raise UsageError("choose points", "no matrix is given", "give one, e.g. --matrix push")
        return None
    if repeat:
        raise UsageError("run a matrix with --repeat", "its tests are not repeated", "leave --repeat out")
    from cprlib.campaign.matrix import plan_matrix

    plan = plan_matrix(matrix, points, shard, own_qemu=own_qemu)
    plan.check(parameters, check_parameters)
    return plan


def _bases(plan: MatrixRun | None, base: str, engine: str | None) -> tuple[str, ...]:
    """The bases of the points.

    :param base: of a run without points.
    :raises UsageError: the lab engine does not hold their QEMUs.
    """
    bases = plan.bases(base) if plan else ()
    foreign = [name for name in bases or (base,) if name != DEFAULT_BASE]
    if engine == "kvm" and foreign:
        happened = f"it holds QEMU {DEFAULT_BASE} only, not {', '.join(foreign)}"
        advice = f"choose points: --points '*-{DEFAULT_BASE}-*'" if plan else "use --lab=uml"
        raise UsageError("run in lab engine kvm", happened, advice)
    return bases
