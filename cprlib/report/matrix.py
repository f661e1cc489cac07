"""Runs over a matrix of parameters: names of its points, the points a run has to cover, and merging of shards.

``matrix.json`` in a results folder lists the points that the run has to cover. A point without a case, a missing shard,
and shards of different commits or QEMUs make the run inconclusive, also when its folder is judged again later.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cprlib import files
from cprlib.codec import dump_json
from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.evidence.case import CaseEvidence, read_record
from cprlib.report.environment import Environment
from cprlib.report.read_results import read_cases
from cprlib.report.results_folder import BASELINE_FILE, CASES, JOB_FOLDER, require_results, unfinished_reason
from cprlib.words import counted, listed

MATRIX_FILE = "matrix.json"
POINT = "point"  # in a case's further parameters
AXES = ("queues", "vhost", "machine", "mechanism", "base", "ip_version")
"""Parameters that a point's name starts with, in this order; others follow, sorted."""
NOT_IN_NAMES = ("qemu", "firmware")
"""Parameters that are paths on this machine; ``base`` identifies the QEMU."""


def point_name(values: Mapping[str, str]) -> str:
    """Name a point by its parameters, the same on every machine: ``q4-vhost-q35-cpr-10.0-ip6``.

    :param values: parameters as texts; parameters that are not set are left out.
    """
    prefixes = {"queues": "q", "ip_version": "ip"}
    own = {**values, "vhost": "vhost" if values.get("vhost") == "on" else "tap"}
    words = [f"{prefixes.get(name, '')}{own[name]}" for name in AXES if name in values]
    others = (name for name in sorted(values) if name not in (*AXES, *NOT_IN_NAMES) and values[name])
    words += [f"{name}-{values[name]}" for name in others]
    return "-".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-.") for word in words)


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of a matrix that one run covers.

    :param number: from 1.
    :param points: names of its points.
    """

    number: int
    points: tuple[str, ...]
    environment: Environment = field(default_factory=Environment)


@dataclass(frozen=True, slots=True)
class MatrixRecord:
    """The points that a results folder has to cover.

    :param name: of the matrix: ``push``.
    :param points: names of the points of all shards, in the order of the matrix.
    :param count: number of shards.
    :param shards: in this folder: one, or all that were merged.
    :param merged: the folder has to hold every point; otherwise only those of its shard.
    :param differences: reasons why merged shards are not one run.
    """

    name: str
    points: tuple[str, ...]
    shards: tuple[Shard, ...]
    count: int = 1
    merged: bool = False
    differences: tuple[str, ...] = ()
    schema: int = 1

    def write(self, folder: Path) -> None:
        files.write_text(folder / MATRIX_FILE, dump_json(self), mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> MatrixRecord | None:
        """Read ``matrix.json``; None when the run was not over a matrix.

        :raises InstrumentError: it is broken.
        """
        path = folder / MATRIX_FILE
        return read_record(cls, path) if path.exists() else None

    def problems(self, covered: Iterable[str]) -> Iterator[str]:
        """Reasons why the run is inconclusive: what is missing, and differences between the shards.

        :param covered: points of the cases with evidence.
        """
        yield from self.differences
        present = {shard.number for shard in self.shards}
        for number in range(1, self.count + 1) if self.merged else ():
            if number not in present:
                missing = shard_points(self.points, number, self.count)
                points = f"{counted(len(missing), 'point')} never ran: {listed(missing, 4, ', ')}"
                yield f"shard {number}/{self.count} is missing: {points}"
        found = set(covered)
        without = [point for shard in self.shards for point in shard.points if point not in found]
        if without:
            yield f"{counted(len(without), 'point')} of the matrix left no evidence: {listed(without, 4, ', ')}"


def points_of(cases: Iterable[CaseEvidence]) -> Iterator[str]:
    """The points of cases with evidence."""
    return (str(case.parameters.more[POINT]) for case in cases if POINT in case.parameters.more)


def shard_points(points: tuple[str, ...], number: int, count: int) -> tuple[str, ...]:
    """The points of a shard: every ``count``-th from the ``number``-th, so that all shards take about the same time.

    :param number: from 1.
    """
    return points[number - 1 :: count]


def merge_results(shards: Sequence[Path], results: Path) -> MatrixRecord:
    """Copy the results of the shards into one results folder; their own folders stay unchanged.

    :param shards: results folders of runs with ``--shard``, in any order.
    :param results: a new results folder.
    :raises UsageError: a folder is not a shard's, or the shards are not of one matrix.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    records = [_read_shard(folder) for folder in shards]
    _check_same_matrix(shards, records)
    baselines = [folder / BASELINE_FILE for folder in shards if (folder / BASELINE_FILE).exists()]
    for other in baselines[1:]:
        if other.read_bytes() != baselines[0].read_bytes():
            tried = f"merge {baselines[0].parent} and {other.parent}"
            raise UsageError(tried, "they have different baselines", "give shards of one run")
    try:
        for path in baselines[:1]:
            shutil.copyfile(path, results / BASELINE_FILE)
        for folder, record in zip(shards, records, strict=True):
            _copy_shard(folder, record.shards[0].number, results)
    except OSError as error:
        raise EnvironmentFailure(f"merge into {results}", str(error), "choose another folder with --out") from error
    ordered = sorted((record.shards[0] for record in records), key=lambda shard: shard.number)
    merged = replace(records[0], shards=tuple(ordered), merged=True, differences=_differences(shards, ordered))
    merged.write(results)
    return merged


def _read_shard(folder: Path) -> MatrixRecord:
    tried = f"merge {folder}"
    record = MatrixRecord.read(require_results(folder, "merge", "give the results folders of the shards"))
    if record is None:
        raise UsageError(tried, "it is not a run over a matrix", "give results of cprlib run --matrix --shard")
    if record.merged:
        raise UsageError(tried, "it is already a merged run", "give the results folders of all shards")
    return record


def _check_same_matrix(shards: Sequence[Path], records: Sequence[MatrixRecord]) -> None:
    """Refuse shards of different matrices, and a shard that is given twice."""
    first = records[0]
    numbers: dict[int, Path] = {}
    for folder, record in zip(shards, records, strict=True):
        tried = f"merge {shards[0]} and {folder}"
        if record.name != first.name or record.points != first.points:
            raise UsageError(tried, "they have different points", "give shards of one matrix with the same --points")
        if record.count != first.count:
            happened = f"one is of {first.count} shards, the other of {record.count}"
            raise UsageError(tried, happened, "give shards of one run")
        number = record.shards[0].number
        if number in numbers:
            happened = f"both are shard {number}/{record.count}"
            raise UsageError(f"merge {numbers[number]} and {folder}", happened, "give each shard once")
        numbers[number] = folder


def _copy_shard(folder: Path, number: int, results: Path) -> None:
    """Copy cases with all their files, and results and log of the Avocado job."""
    (results / CASES).mkdir(mode=0o700, parents=True, exist_ok=True)
    for case in sorted(path for path in (folder / CASES).glob("*") if path.is_dir()):
        target = files.numbered_folder(results / CASES, case.name)
        shutil.copytree(case, target, dirs_exist_ok=True)
    for job in sorted(path for path in (folder / JOB_FOLDER).glob("job-*") if path.is_dir()):
        copy = results / f"{JOB_FOLDER}-{number}" / job.name
        copy.mkdir(parents=True, mode=0o700)
        for name in ("results.json", "job.log"):
            if (job / name).exists():
                shutil.copyfile(job / name, copy / name)


def _differences(folders: Sequence[Path], shards: Sequence[Shard]) -> tuple[str, ...]:
    """Reasons why shards cannot be judged as one run."""
    found = [f"{folder.name}: {reason}" for folder in folders if (reason := unfinished_reason(folder))]
    commits = sorted({shard.environment.commit for shard in shards if shard.environment.commit})
    if len(commits) > 1:
        found.append(f"the shards ran with different commits of this project: {', '.join(commits)}")
    users: dict[str, set[str]] = {}
    for folder in folders:
        for case in read_cases(folder, ()):
            # a QEMU that cprlib built may have other bytes on each machine; its inputs are the same
            built = POINT in case.parameters.more and "base" in case.parameters.more
            if case.source and not built:
                users.setdefault(case.source.sha256, set()).add(folder.name)
    if len(users) > 1:
        hashes = (f"{sha256[:12] or 'unknown'} in {', '.join(sorted(names))}" for sha256, names in users.items())
        found.append(f"the shards tested different QEMUs (sha256): {'; '.join(hashes)}")
    return tuple(found)
