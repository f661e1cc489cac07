"""Results folders of runs with ``--shard``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.evidence.case import CaseEvidence
from cprlib.qemu.facts import QemuFacts
from cprlib.report.environment import Environment
from cprlib.report.matrix import MatrixRecord, Shard, shard_points
from cprlib.report.results_folder import start_case
from tests.unit.evidence.samples import good_case

MACHINE = Environment(mode="lab", engine="uml", kernel="6.12", cores=2, python="3.13.1", cprlib="0.1.0", commit="abc")


def point_case(point: str, *, base: str = "10.0", sha256: str = "ab" * 32) -> CaseEvidence:
    """A good case of a point.

    :param base: empty for a QEMU that cprlib did not build.
    """
    case = good_case(f"update-{point}")
    more = {"point": point} | ({"base": base} if base else {})
    qemu = QemuFacts("/q", "10.0.13", sha256, True, True, False)
    return replace(case, parameters=replace(case.parameters, more=more), source=qemu, target=qemu)


def put_shard(
    folder: Path,
    number: int,
    count: int,
    points: tuple[str, ...],
    *,
    cases: Sequence[str] | None = None,
    name: str = "push",
    machine: Environment = MACHINE,
    base: str = "10.0",
    sha256: str = "ab" * 32,
    change: CaseEvidence | None = None,
) -> Path:
    """The results of one shard.

    :param points: of all shards.
    :param cases: points with evidence; all of the shard when None.
    :param change: replaces the evidence of the case with its id.
    """
    own = shard_points(points, number, count)
    job = folder / "avocado" / f"job-{number}"
    job.mkdir(parents=True)
    tests = []
    for place, point in enumerate(own if cases is None else cases, 1):
        case = replace(point_case(point, base=base, sha256=sha256), test=f"f.py:Matrix.test_update;run-{point}-3f2a")
        case = change if change and change.id == case.id else case
        case.write(start_case(folder, case.id, test=case.test))
        tests.append({"id": f"{place}-{case.test}", "name": case.test, "status": "PASS", "fail_reason": None})
    (job / "results.json").write_text(json.dumps({"tests": tests, "total": len(tests)}))
    MatrixRecord(name, points, (Shard(number, own, machine),), count).write(folder)
    return folder
