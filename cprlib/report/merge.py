"""Joining the results of a matrix's shards into one results folder, with one verdict.

Nothing is lost silently: a shard that is missing, a point without evidence, shards that were not made alike are
reasons for which the merged run is inconclusive, also when its folder is judged again later.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.evidence.case import CaseEvidence
from cprlib.files import numbered_folder, write_text
from cprlib.report.gather import gather
from cprlib.report.matrix import POINT, MatrixRecord, Shard
from cprlib.report.results_folder import CASES

JUNIT_FILE = "junit.xml"
JOBS = "avocado"


def merge_results(shards: Sequence[Path], results: Path) -> MatrixRecord:
    """Copy what the shards' runs left into one results folder; their own folders stay as they are.

    :param shards: results folders of runs with ``--shard``, in any order.
    :param results: a new results folder.
    :raises UsageError: a folder is none of a matrix's, or they do not belong together.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    records = [_record(folder) for folder in shards]
    _refuse_strangers(shards, records)
    try:
        for folder, record in zip(shards, records, strict=True):
            _copy(folder, record.shards[0].number, results)
        _join_junit(shards, results / JUNIT_FILE)
    except OSError as error:
        raise EnvironmentFailure(f"merge into {results}", str(error), "choose another folder with --out") from error
    ordered = sorted((record.shards[0] for record in records), key=lambda shard: shard.number)
    merged = replace(records[0], shards=tuple(ordered), merged=True, differences=_differences(shards, ordered))
    merged.write(results)
    return merged


def _record(folder: Path) -> MatrixRecord:
    if not folder.is_dir():
        raise UsageError(f"merge {folder}", "there is no such folder", "give the results folders of the shards")
    record = MatrixRecord.read(folder)
    if record is None:
        raise UsageError(f"merge {folder}", "it is no run of a matrix", "give results of cprlib run --matrix --shard")
    if record.merged:
        raise UsageError(f"merge {folder}", "it was merged already", "merge the shards' own results, all at once")
    return record


def _refuse_strangers(shards: Sequence[Path], records: Sequence[MatrixRecord]) -> None:
    """Refuse folders that are not shards of one matrix, each once."""
    first = records[0]
    numbers: dict[int, Path] = {}
    for folder, record in zip(shards, records, strict=True):
        tried = f"merge {shards[0]} and {folder}"
        if record.name != first.name or record.points != first.points:
            raise UsageError(tried, "they are of different points", "give shards of one matrix with the same --points")
        if record.count != first.count:
            raise UsageError(tried, f"one is of {first.count} shards, the other of {record.count}")
        number = record.shards[0].number
        if number in numbers:
            raise UsageError(f"merge {numbers[number]} and {folder}", f"both are shard {number}/{record.count}")
        numbers[number] = folder


def _copy(folder: Path, number: int, results: Path) -> None:
    """Cases with all their files, and what Avocado says of its job."""
    (results / CASES).mkdir(mode=0o700, parents=True, exist_ok=True)
    for case in sorted(path for path in (folder / CASES).glob("*") if path.is_dir()):
        target = numbered_folder(results / CASES, case.name)
        shutil.copytree(case, target, dirs_exist_ok=True)
    for job in sorted(path for path in (folder / JOBS).glob("job-*") if path.is_dir()):
        kept = results / f"{JOBS}-{number}" / job.name
        kept.mkdir(parents=True, mode=0o700)
        for name in ("results.json", "job.log"):
            if (job / name).exists():
                shutil.copyfile(job / name, kept / name)


def _join_junit(shards: Sequence[Path], path: Path) -> None:
    """One JUnit file of all; one that cannot be read is left out: run.json is what decides."""
    top = ET.Element("testsuites")
    for folder in shards:
        try:
            top.append(ET.parse(folder / JUNIT_FILE).getroot())  # noqa: S314 - written by Avocado, on our machines
        except (OSError, ET.ParseError):
            continue
    write_text(path, ET.tostring(top, encoding="unicode", xml_declaration=True) + "\n", mode=0o600)


def _differences(folders: Sequence[Path], shards: Sequence[Shard]) -> tuple[str, ...]:
    """Why shards cannot be judged as one run."""
    found = []
    commits = sorted({shard.environment.commit for shard in shards if shard.environment.commit})
    if len(commits) > 1:
        found.append(f"the shards were run by different commits of this project: {', '.join(commits)}")
    brought: dict[str, set[str]] = {}
    for folder in folders:
        for case in gather(folder, ()):
            if case.source and not _has_base(case):
                brought.setdefault(case.source.sha256, set()).add(folder.name)
    if len(brought) > 1:
        said = "; ".join(
            f"{sha256[:12] or 'unknown'} in {', '.join(sorted(names))}" for sha256, names in brought.items()
        )
        found.append(f"the shards tested different QEMUs (sha256): {said}")
    return tuple(found)


def _has_base(case: CaseEvidence) -> bool:
    """The project's own builds of one base may differ in bytes from machine to machine; their inputs do not."""
    more = case.parameters.more
    return POINT in more and "base" in more
