"""Sample matrices and cells for the tests of cprlib prove."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.build.mutants import Mutant
from cprlib.campaign.mutation.cell import CellRecord
from cprlib.campaign.mutation.matrix import Build, Cell, Matrix, Row
from cprlib.campaign.mutation.outcome import CellOutcome, JudgedCell, Policies
from cprlib.evidence.case import CaseEvidence
from cprlib.report.environment import Environment
from cprlib.verdict.policy_file import load_policy

HOSTILE = "<script>alert('x')</script>\x1b[31m\u202eexe|`[a](b)\n# head"
POLICIES = Policies(load_policy("default"), load_policy("strict"))


def variant(name: str = "one-packet-lost", **changes: object) -> Mutant:
    """A variant that test-a has to catch by its lost packet."""
    made = Mutant(
        name=name,
        group="traffic",
        subject="one packet is lost",
        body="A packet is read and forgotten.",
        leaves_out=("0009",),
        patches=(),
        killed_by=("test-a",),
        message="packets? lost",
        bases=("10.0",),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def judged(outcome: CellOutcome, *messages: str, seconds: float | None = 12.3) -> JudgedCell:
    """A judged cell."""
    return JudgedCell(outcome, messages, seconds)


def row(build: Build, cells: Mapping[str, JudgedCell], wanted: Sequence[str] | None = None, **more: str) -> Row:
    """A row of a matrix; ``wanted`` is what has cells unless told."""
    made = {test: Cell(test, cell, f"cells/{build.folder}/{test}") for test, cell in cells.items()}
    return Row(build, tuple(wanted if wanted is not None else made), made, **more)


GOOD = row(Build(), {"test-a": judged(CellOutcome.PASSED), "test-b": judged(CellOutcome.PASSED)})
CAUGHT = row(
    Build(variant()),
    {"test-a": judged(CellOutcome.DETECTED, "loss: 2 packets lost forward"), "test-b": judged(CellOutcome.PASSED)},
)


def matrix(folder: Path, *rows: Row, tests: Sequence[str] = ("test-a", "test-b"), **more: object) -> Matrix:
    """A matrix of some rows, the good build's and a caught variant's unless told."""
    environment = Environment(mode="lab", engine="uml", kernel="6.12", python="3.13.1", cprlib="0.1.0")
    made = Matrix(
        folder,
        rows or (GOOD, CAUGHT),
        {test: f"/x/test_x.py:X.{test}" for test in tests},
        "10.0",
        True,
        "uml",
        environment,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def put_cell(
    folder: Path,
    status: str = "PASS",
    reason: str = "",
    *cases: CaseEvidence,
    seconds: float = 12.5,
    record: CellRecord | None = None,
) -> Path:
    """A cell's folder as a run leaves it."""
    name = "/x/tests/functional/test_x.py:X.test_a"
    job = folder / "avocado" / "job-2026-11-23T07.47-df99fb8"
    job.mkdir(parents=True)
    test = {"id": f"1-{name}", "name": name, "status": status, "fail_reason": reason, "time_elapsed": seconds}
    (job / "results.json").write_text(json.dumps({"tests": [test], "total": 1}))
    (folder / "cases").mkdir()
    for case in cases:
        place = folder / "cases" / case.id
        place.mkdir()
        replace(case, test=f"1-{name}").write(place)
    (record or CellRecord("good/run-1", "test-a", "key")).write(folder)
    return folder
