"""``cprlib run``: the suite from nothing to a verdict."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from cprlib.build.assets import DEFAULT_BASE, Assets, build_assets, build_base
from cprlib.build.progress import console_progress
from cprlib.build.qemu import build_qemu
from cprlib.campaign.compare.baseline import baseline_for_run
from cprlib.campaign.matrix_run import MatrixRun, matrix_test, plan_matrix
from cprlib.cli import completion
from cprlib.errors import CprlibError, UsageError
from cprlib.files import project_folder
from cprlib.lab.avocado_run import SuiteRun, run_and_gather
from cprlib.lab.backend import asset_parameters, choose_engine
from cprlib.lab.engines import ENGINES, KERNEL_VARIABLE
from cprlib.qemu.binary import QemuBinary, probe
from cprlib.report.environment import describe_environment
from cprlib.report.history import INDEX_FILE, write_index
from cprlib.report.matrix import NOT_IN_NAMES
from cprlib.report.pipeline import build_report
from cprlib.report.results_folder import new_results_folder, publish
from cprlib.report.summary import result_table
from cprlib.testing.parameters import check_parameters  # the suite's own, so that both refuse the same
from cprlib.verdict.policy_file import load_policy


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("tests", nargs=-1, shell_complete=completion.tests)
@click.option("--qemu", type=click.Path(path_type=Path), help="QEMU to test; the project's own build otherwise.")
@click.option("--firmware", type=click.Path(path_type=Path), help="Firmware folder of --qemu (its -L).")
@click.option(
    "--base",
    default=DEFAULT_BASE,
    show_default=True,
    shell_complete=completion.bases,
    help="Base of the project's own QEMU.",
)
@click.option(
    "--target-base",
    shell_complete=completion.bases,
    help="Also update to the project's own QEMU on this base, and back; e.g. 10.2.",
)
@click.option("--target-qemu", type=click.Path(path_type=Path), help="Also update to this QEMU, and back.")
@click.option("--target-firmware", type=click.Path(path_type=Path), help="Firmware folder of --target-qemu.")
@click.option(
    "--policy",
    default="default",
    show_default=True,
    shell_complete=completion.policies,
    help="A policy of fixtures/policies, or a TOML file.",
)
@click.option("--native", is_flag=True, help="Run on this host, whatever cprlib doctor says.")
@click.option(
    "--lab", is_flag=False, flag_value="uml", metavar="[ENGINE]", help=f"Run in a lab: {' or '.join(ENGINES)}."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Folder of all runs."
)
@click.option(
    "-p", "--parameter", multiple=True, metavar="NAME=VALUE", help="Avocado parameter, see docs/parameters.md."
)
@click.option("--parallel", type=click.IntRange(1), help="Tests at once; one per core in the lab, else one.")
@click.option("-t", "--tag", multiple=True, help="Only tests with this Avocado tag, e.g. queues:4.")
@click.option("--matrix", metavar="NAME|FILE", help="Run at each point of a matrix: push, night, or a file.")
@click.option("--points", multiple=True, metavar="PATTERN", help="Only these points of it, e.g. '*-cpr-*'.")
@click.option("--shard", metavar="N/COUNT", help="Only this part of the points; cprlib report --merge joins them.")
@click.option("--baseline", type=click.Path(path_type=Path), help="Of cprlib baseline save, for a policy's max_ratio.")
@click.option("--anyway", is_flag=True, help="Use --baseline even though it is of another machine.")
def run(
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
    parallel: int | None,
    tag: tuple[str, ...],
    matrix: str | None,
    points: tuple[str, ...],
    shard: str | None,
    baseline: Path | None,
    anyway: bool,
) -> int:
    """Run the functional suite, or TESTS of it, and say whether a live update loses anything.

    TESTS are Avocado references: tests/functional/test_cpr_tap.py, or with :CLASS.METHOD behind it.
    """
    if lab is not None and lab not in ENGINES:
        if not _exists(lab):
            raise UsageError(f"use lab engine {lab!r}", "no such engine", f"choose one of {', '.join(ENGINES)}")
        tests, lab = (lab, *tests), "uml"  # `--lab TEST`: the word belongs to the tests
    for test in tests:
        if not _exists(test):
            raise UsageError(f"run {test}", "no such file", "name a test file or folder, e.g. tests/functional")
    if target_base and target_qemu:
        raise UsageError("choose a target", "both --target-base and --target-qemu were given", "give one of them")
    if native and lab:
        raise UsageError("run the suite", "both --native and --lab were given", "give one of them")
    parameters = read_parameters(parameter)
    check_parameters(parameters)
    plan = _plan(matrix, points, shard, parameters, brought=qemu is not None)
    judged_by = load_policy(policy)
    brought, target = read_brought(qemu, firmware), read_brought(target_qemu, target_firmware)
    engine = choose_engine(native, lab, lambda text: click.echo(text, err=True))
    bases = () if brought else _bases(plan, base, engine)
    assets = build_assets(console_progress(), lab=engine is not None, qemu=brought, base=bases[0] if bases else base)
    if target_base:
        built = build_qemu(target_base, True, console_progress())
        target = QemuBinary(built.binary, built.firmware)
    qemus = {name: build_base(name, console_progress()) for name in bases}
    given = asset_parameters(assets, engine, policy) | _target_parameters(target) | parameters
    environment = describe_environment(
        mode="lab" if engine else "native",
        engine=engine or "",
        lab_kernel=assets.lab_kernel,
        accelerator=given.get("accelerator", "tcg"),
    )
    before = baseline_for_run(baseline, judged_by, environment, anyway=anyway) if baseline else None
    results = new_results_folder(out.resolve())
    command = shlex.join(["cprlib", *sys.argv[1:]])
    if plan:
        plan.record(results, command, environment)
    elif not brought and "qemu" not in parameters:
        given["base"] = base
    suite = SuiteRun(
        results=results,
        tests=[_reference(test) for test in tests] or ([matrix_test()] if plan else []),
        parameters=given,
        engine=engine,
        parallel=parallel,
        extra=[f"--filter-by-tags={name}" for name in tag],
        environment=_lab_kernel(assets),
        matrix=plan.write(results, _without_paths(given) if qemus else given, qemus, base) if plan else None,
    )
    retries = run_and_gather(suite)
    if not (results.parent / INDEX_FILE).exists():
        _write_history(results.parent)  # so that the report can lead to it; its own run is added below
    environment = replace(environment, lab_retries=retries)
    report = build_report(results, judged_by, environment=environment, command=command, baseline_ms=before)
    latest = publish(results)
    _write_history(results.parent)
    click.echo(result_table(report))
    click.echo(f"report: {latest / 'report.html'}")
    return int(report.exit_status)


def _write_history(folder: Path) -> None:
    """The page of all runs; what hinders it says nothing about this run."""
    try:
        write_index(folder)
    except CprlibError as error:
        click.echo(f"cprlib: {error.one_line()}", err=True)


def read_brought(path: Path | None, firmware: Path | None) -> QemuBinary | None:
    """A QEMU of the user's.

    :raises UsageError: it is none; told before anything is built.
    """
    if path is None:
        return None
    qemu = QemuBinary(path.absolute(), firmware.absolute() if firmware else None)
    probe(qemu)
    return qemu


def _target_parameters(target: QemuBinary | None) -> dict[str, str]:
    if target is None:
        return {}
    firmware = {"target_firmware": str(target.firmware)} if target.firmware else {}
    return {"target_qemu": str(target.path)} | firmware


def _plan(
    matrix: str | None, points: Sequence[str], shard: str | None, parameters: Mapping[str, str], *, brought: bool
) -> MatrixRun | None:
    """The points to run at, checked before anything is built; None without a matrix."""
    if matrix is None:
        if points or shard:
            raise UsageError("choose points", "no matrix was given", "give one, e.g. --matrix push")
        return None
    for name in NOT_IN_NAMES:
        if name in parameters:
            raise UsageError(f"run a matrix with -p {name}", "its points say which QEMU", f"give --{name}")
    plan = plan_matrix(matrix, points, shard, brought=brought)
    plan.check(parameters, check_parameters)
    return plan


def _bases(plan: MatrixRun | None, base: str, engine: str | None) -> tuple[str, ...]:
    """The bases that the points name.

    :param base: that of a run without points.
    :raises UsageError: the lab cannot carry their QEMUs.
    """
    bases = plan.bases(base) if plan else ()
    foreign = [name for name in bases or (base,) if name != DEFAULT_BASE]
    if engine == "kvm" and foreign:
        happened = f"it carries QEMU {DEFAULT_BASE} only, not {', '.join(foreign)}"
        advice = f"choose points: --points '*-{DEFAULT_BASE}-*'" if plan else "use --lab=uml"
        raise UsageError("run in lab engine kvm", happened, advice)
    return bases


def _lab_kernel(assets: Assets) -> dict[str, str]:
    """Tells labs their kernel: with another QEMU than the project's default no manifest does."""
    chosen = os.environ.get(KERNEL_VARIABLE) or assets.lab_kernel
    return {KERNEL_VARIABLE: str(chosen)} if chosen else {}


def _without_paths(given: Mapping[str, str]) -> dict[str, str]:
    """Parameters for points that each name their own QEMU."""
    return {name: value for name, value in given.items() if name not in NOT_IN_NAMES}


def read_parameters(given: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` as Avocado's parameters.

    :raises UsageError: one is not of that form.
    """
    pairs = {}
    for item in given:
        name, separator, value = item.partition("=")
        if not separator or not name.isidentifier():
            raise UsageError(f"read parameter {item!r}", "it is not NAME=VALUE", "see docs/parameters.md")
        pairs[name] = value
    if "base" in pairs:
        raise UsageError("choose a base with -p", "its QEMU has to be built", f"give --base {pairs['base']}")
    return pairs


def _exists(test: str) -> bool:
    return _file(test) is not None


def _file(test: str) -> Path | None:
    """The file or folder of a test reference: as it is named from here, else from the project's top."""
    name = Path(test.partition(":")[0])
    return next((path for path in (name, project_folder() / name) if path.exists()), None)


def _reference(test: str) -> str:
    name, separator, rest = test.partition(":")
    return str((_file(test) or Path(name)).resolve()) + separator + rest
