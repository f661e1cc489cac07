"""Checks of the cache and of the results folder after a killed run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cprlib.build.store import is_complete
from cprlib.errors import CprlibError, ExitStatus
from cprlib.report.build_report import build_report
from cprlib.report.results_folder import LATEST, UNFINISHED
from cprlib.report.run_json import RUN_SCHEMA_FILE
from cprlib.verdict.policy_file import load_policy

REBUILT = ("guest", "lab-init")  # built in a few seconds, without the network


def remove_entries(cache: Path) -> None:
    """Remove entries of the cache, so that the next run builds them."""
    for kind in REBUILT:
        for entry in (cache / "store" / kind).glob("[!.]*"):
            shutil.rmtree(entry)


def cache_faults(cache: Path) -> list[str]:
    """Incomplete entries, and an unreadable manifest.

    An entry that is being built has a name with a leading dot and does not count; the next build removes it.
    """
    faults = [
        f"cache: {entry} is incomplete"
        for entry in (cache / "store").glob("[!.]*/[!.]*")
        if entry.is_dir() and not is_complete(entry)
    ]
    for manifest in cache.glob("builds-*.json"):
        try:
            json.loads(manifest.read_text())
        except ValueError as error:
            faults.append(f"cache: {manifest.name}: {error}")
    return faults


def results_faults(results: Path, status: int, run: Path | None) -> list[str]:
    """A ``latest`` that points to an unfinished run, and an interrupted run that is not reported as such.

    :param status: exit status of the killed run.
    :param run: its folder, if it exists.
    """
    faults = [f"results: unexpected {path}" for path in results.glob(".*")]
    latest = results / LATEST
    if latest.is_symlink():
        target = results / latest.readlink()
        if not target.is_dir() or (target / UNFINISHED).exists():
            faults.append(f"results: latest points to {target.name}, which is unfinished")
        else:
            faults += _published_faults(target)
    if run is not None and (run / UNFINISHED).exists():
        faults += _interrupted_faults(run)
    elif run is not None:
        faults += _published_faults(run)
    if status == ExitStatus.PASS and (run is None or (run / UNFINISHED).exists()):
        faults.append("the run passed and is unfinished")
    return faults


def _published_faults(run: Path) -> list[str]:
    try:
        value = json.loads((run / "run.json").read_text())
        RUN_SCHEMA_FILE.check(value)
        return [] if (run / "report.html").exists() else [f"results: {run.name} has no report.html"]
    except (OSError, ValueError, CprlibError) as error:
        return [f"results: {run.name} is published and incomplete: {error}"]


def _interrupted_faults(run: Path) -> list[str]:
    """Judge the run as ``cprlib report`` does."""
    try:
        report = build_report(run, load_policy("default"))
    except CprlibError as error:
        return [f"results: no report on {run.name}: {error.one_line()}"]
    if report.exit_status != ExitStatus.INCONCLUSIVE:
        return [f"results: {run.name} was interrupted and is {report.verdict.outcome}"]
    if not any("interrupted before it wrote its report" in problem for problem in report.problems):
        return [f"results: the report on {run.name} does not say that it was interrupted"]
    return []
