"""``cprlib run``: the suite from nothing to a verdict."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cprlib.build.assets import DEFAULT_BASE, build_assets
from cprlib.build.progress import console_progress
from cprlib.build.qemu import build_qemu
from cprlib.cli import completion
from cprlib.errors import CprlibError, UsageError
from cprlib.files import project_folder
from cprlib.lab.engines import ENGINES
from cprlib.qemu.binary import QemuBinary, probe
from cprlib.report.build import build_report
from cprlib.report.environment import describe_environment
from cprlib.report.history_page import INDEX_FILE, write_index
from cprlib.report.results_folder import new_results_folder, publish
from cprlib.report.table import result_table
from cprlib.suite.avocado_run import SuiteRun, gather, run_avocado
from cprlib.suite.place import asset_parameters, choose_engine
from cprlib.verdict.policy_file import load_policy
from fixtures.parameters import check_parameters  # the suite's own, so that both refuse the same


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
    parameters = _parameters(parameter)
    check_parameters(parameters)
    judged_by = load_policy(policy)
    brought, target = _brought(qemu, firmware), _brought(target_qemu, target_firmware)
    engine = choose_engine(native, lab, lambda text: click.echo(text, err=True))
    assets = build_assets(console_progress(), lab=engine is not None, qemu=brought, base=base)
    if target_base:
        built = build_qemu(target_base, True, console_progress())
        target = QemuBinary(built.binary, built.firmware)
    results = new_results_folder(out.resolve())
    suite = SuiteRun(
        results=results,
        tests=[_reference(test) for test in tests],
        parameters=asset_parameters(assets, engine, policy) | _target_parameters(target) | parameters,
        engine=engine,
        parallel=parallel,
        extra=[argument for name in tag for argument in ("-t", name)],
    )
    run_avocado(suite)
    retries = gather(results)
    command = shlex.join(["cprlib", *sys.argv[1:]])
    environment = describe_environment(mode="lab" if engine else "native", engine=engine or "", lab_retries=retries)
    if not (results.parent / INDEX_FILE).exists():
        _write_history(results.parent)  # so that the report can lead to it; its own run is added below
    report = build_report(results, judged_by, environment=environment, command=command)
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


def _brought(path: Path | None, firmware: Path | None) -> QemuBinary | None:
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


def _parameters(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for item in given:
        name, separator, value = item.partition("=")
        if not separator or not name.isidentifier():
            raise UsageError(f"read parameter {item!r}", "it is not NAME=VALUE", "see docs/parameters.md")
        pairs[name] = value
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
