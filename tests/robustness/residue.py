"""What a killed run may not do to the cache and to the results folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cprlib.build.store import is_complete
from cprlib.errors import CprlibError, ExitStatus
from cprlib.report.pipeline import build_report
from cprlib.report.results_folder import LATEST, UNFINISHED
from cprlib.report.run_json import validate
from cprlib.verdict.policy_file import load_policy

REBUILT = ("guest", "lab-init")  # kinds of entries that are made in a few seconds, without the network


def forget_built(cache: Path) -> None:
    """Take entries out of the cache, so that the next run has to build them."""
    for kind in REBUILT:
        for entry in (cache / "store" / kind).glob("[!.]*"):
            shutil.rmtree(entry)


def cache_faults(cache: Path) -> list[str]:
    """Entries with a name of their own that are not whole, and a manifest that cannot be read.

    What was being made has a name with a dot in front and is nobody's entry; the next maker removes it.
    """
    faults = [
        f"cache: {entry} is not whole"
        for entry in (cache / "store").glob("[!.]*/[!.]*")
        if entry.is_dir() and not is_complete(entry)
    ]
    try:
        manifest = cache / "assets.json"
        if manifest.exists():
            json.loads(manifest.read_text())
    except ValueError as error:
        faults.append(f"cache: {error}")
    return faults


def results_faults(results: Path, status: int, run: Path | None) -> list[str]:
    """A ``latest`` that leads to a run without an end, and a run that was interrupted and is not reported so.

    :param status: exit status of the run that was killed last.
    :param run: its folder, if it came so far.
    """
    faults = [f"results: {path} beside the runs" for path in results.glob(".*")]
    latest = results / LATEST
    if latest.is_symlink():
        led = results / latest.readlink()
        if not led.is_dir() or (led / UNFINISHED).exists():
            faults.append(f"results: latest leads to {led.name}, which is not whole")
        else:
            faults += _whole(led)
    if run is not None and (run / UNFINISHED).exists():
        faults += _reported_as_interrupted(run)
    elif run is not None:
        faults += _whole(run)
    if status == ExitStatus.PASS and (run is None or (run / UNFINISHED).exists()):
        faults.append("the run says pass and has not come to its end")
    return faults


def _whole(run: Path) -> list[str]:
    try:
        value = json.loads((run / "run.json").read_text())
        validate(value)
        return [] if (run / "report.html").exists() else [f"results: {run.name} has no page"]
    except (OSError, ValueError, CprlibError) as error:
        return [f"results: {run.name} is published and not whole: {error}"]


def _reported_as_interrupted(run: Path) -> list[str]:
    """Judge it as ``cprlib report`` does."""
    try:
        report = build_report(run, load_policy("default"))
    except CprlibError as error:
        return [f"results: no report on {run.name}: {error.one_line()}"]
    if report.exit_status != ExitStatus.INCONCLUSIVE:
        return [f"results: {run.name} was interrupted and is {report.verdict.outcome}"]
    if not any("interrupted before it wrote its report" in problem for problem in report.problems):
        return [f"results: the report on {run.name} does not say that it was interrupted"]
    return []
