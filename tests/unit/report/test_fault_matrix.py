"""The fault matrix: which QEMU survives each injected fault, after how long, judged by the fault's checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, FaultRecord, Outcome, Parameters, Role
from cprlib.report.build_report import build_report
from cprlib.report.environment import Environment
from cprlib.report.fault_matrix import Column, FaultTable, fault_matrix
from cprlib.report.results_folder import start_case
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.parameters import SuiteParameters
from cprlib.update.faults import Action, Actor, Phase, Survivor, faults_named
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.policy_file import load_policy

HOSTILE = "<script>alert('x')</script>\x1b[31m\u202eexe"
MACHINE = Environment(mode="lab", engine="uml", kernel="6.12", python="3.13.1", cprlib="0.1.0")
DEATH_NS = 1_764_028_401_515_000_000


def record(name: str = "cpr-garbage", fault: Mapping[str, Any] | None = None, **changes: Any) -> FaultRecord:
    """A fault as a test adds it to its case.

    :param fault: what is different in it; :param changes: in the record.
    """
    (garbage,) = faults_named("cpr-garbage")
    seen = FaultRecord(
        replace(garbage, name=name, **(fault or {})),
        reached=True,
        migration="failed",
        error="Unable to read from socket",
        state="running",
        target_state="gone",
        resumed_after_ms=28.753,
        traffic_after_ms=305.784,
        target_exit=1,
        target_messages=("load of migration failed",),
        source_messages=("Connection reset by peer",),
    )
    return replace(seen, **changes)


def check(fault: str, name: str, outcome: Outcome = Outcome.PASS, observed: str = "as it must be") -> Check:
    """A check of a fault; of none when ``fault`` is empty."""
    full_name = f"{fault}-{name}" if fault else name
    message = "" if outcome == Outcome.PASS else f"{full_name} went wrong"
    return Check(full_name, outcome, "x", observed, message, name, fault)


def put(results: Path, case: str, faults: Sequence[FaultRecord], checks: Sequence[Check]) -> CaseEvidence:
    """A case as a test leaves it."""
    folder = start_case(results, case)
    evidence = CaseEvidence(
        case,
        Mechanism.CPR,
        Role.CHECKS,
        parameters=Parameters(queues=4, vhost=True),
        started_ns=1,
        checks=tuple(checks),
        faults=tuple(faults),
    )
    evidence.write(folder)
    assert CaseEvidence.read(folder) == evidence
    return evidence


def matrix_of(results: Path) -> FaultTable:
    return fault_matrix(build_report(results, load_policy("default"), environment=MACHINE).cases)


def test_rows_are_phases_in_order_and_columns_actors_and_actions(tmp_path: Path) -> None:
    faults = [
        record("b", {"phase": Phase.TARGET_RESUMED, "actor": Actor.SOURCE, "action": Action.KILL}),
        record("a", {"phase": Phase.TARGET_STARTED, "actor": Actor.TARGET, "action": Action.KILL}),
        record("c"),
    ]
    put(tmp_path, "x", faults, [check("a", "ends"), check("b", "completes"), check("c", "ends")])
    made = matrix_of(tmp_path)
    assert made.phases == ("target started", "fds sent", "target resumed")
    assert made.actors == ("source", "target", "management")
    assert made.columns_of(Actor.SOURCE) == (Column(Actor.SOURCE, Action.KILL),)
    (entry,) = made.cell(Phase.FDS_SENT, Column(Actor.MANAGEMENT, Action.GARBAGE_CPR))
    assert (entry.verdict, entry.runs_guest, entry.setting) == (Outcome.PASS, "source", "vhost x4")
    assert (entry.record.resumed_after_ms, entry.record.traffic_after_ms) == (28.753, 305.784)
    assert entry.conditions == ("the target has to refuse",)


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL])
def test_worst_check_of_a_fault_decides_it_and_no_other(tmp_path: Path, outcome: Outcome) -> None:
    checks = [
        check("one", "ends"),
        check("one", "traffic", outcome),
        check("two", "ends"),
        check("", "next-update-succeeds"),
    ]
    put(tmp_path, "x", [record("one"), record("two")], checks)
    found = {entry.fault.name: entry.verdict for entry in matrix_of(tmp_path).cells}
    assert found == {"one": outcome, "two": Outcome.PASS}


def test_fault_without_a_check_is_inconclusive(tmp_path: Path) -> None:
    put(tmp_path, "x", [record()], [check("", "other")])
    assert matrix_of(tmp_path).count(Outcome.INCONCLUSIVE) == 1


def test_wrong_survivor_is_reported(tmp_path: Path) -> None:
    put(tmp_path, "x", [record(state="internal-error")], [check("cpr-garbage", "source-runs", Outcome.FAIL)])
    assert matrix_of(tmp_path).cells[0].runs_guest == "source: internal-error"


@pytest.mark.parametrize(
    ("source", "target", "owner"), [("running", "gone", "source"), ("postmigrate", "running", "target")]
)
def test_owner_is_reported_where_either_may_survive(tmp_path: Path, source: str, target: str, owner: str) -> None:
    seen = record("cancel-state-loading", {"survivor": Survivor.EITHER}, source_state=source, target_state=target)
    put(tmp_path, "x", [replace(seen, refused="too late")], [check("cancel-state-loading", "one-owner")])
    (entry,) = matrix_of(tmp_path).cells
    assert (entry.runs_guest, entry.record.refused) == (owner, "too late")


def test_time_of_death_is_reported_when_no_qemu_survives(tmp_path: Path) -> None:
    name = "source-killed-fds-received"
    put(tmp_path, "x", [record(name, {"survivor": Survivor.NEITHER}, died_ns=DEATH_NS)], [check(name, "runs-nowhere")])
    (entry,) = matrix_of(tmp_path).cells
    assert entry.died == "2025-11-24T23:53:21.515Z"
    assert "died 23:53:21.515" in (tmp_path / "report.html").read_text()


def test_fault_whose_update_hangs_and_the_faults_after_it_are_in_the_matrix(tmp_path: Path) -> None:
    checks = [
        check("cpr-truncated", "ends", Outcome.FAIL),
        Check("cpr-without-fds-survived", Outcome.INCONCLUSIVE, "source", "an earlier fault ended the guest"),
        check("", "something-else-ends"),
    ]
    faults = faults_named("cpr-truncated", "cpr-without-fds")
    put(tmp_path, "x", [FaultRecord(fault, error="why") for fault in faults], checks)
    found = {entry.fault.name: (entry.verdict, entry.fault.phase) for entry in matrix_of(tmp_path).cells}
    assert found == {
        "cpr-truncated": (Outcome.FAIL, Phase.FDS_SENT),
        "cpr-without-fds": (Outcome.INCONCLUSIVE, Phase.FDS_SENT),
    }
    assert {entry.runs_guest for entry in matrix_of(tmp_path).cells} == {"unknown"}


def test_case_writes_its_faults_as_evidence(tmp_path: Path) -> None:
    case = MeasuredCase(SuiteParameters(), tmp_path, CaseEvidence("x", Mechanism.CPR, Role.CHECKS))
    case.expect("cpr-garbage-ends", True, "failed", "failed")
    case.add_fault(record())
    case.write()
    written = CaseEvidence.read(tmp_path)
    assert [item.fault.name for item in written.faults] == ["cpr-garbage"]
    assert [check.name for check in written.checks] == ["cpr-garbage-ends"]
    assert written.finished_ns


def test_run_json_has_the_matrix(tmp_path: Path) -> None:
    put(tmp_path, "x", [record()], [check("cpr-garbage", "ends", Outcome.FAIL)])
    matrix_of(tmp_path)
    value = json.loads((tmp_path / "run.json").read_text())["fault_matrix"]
    assert value["phases"] == ["fds sent"]
    (cell,) = value["cells"]
    assert (cell["case"], cell["verdict"], cell["record"]["fault"]["name"]) == ("x", "fail", "cpr-garbage")
    assert cell["reasons"][0]["about"] == "cpr-garbage-ends"


def test_run_without_faults_has_an_empty_matrix_and_no_table(tmp_path: Path) -> None:
    put(tmp_path, "x", [], [check("", "a")])
    matrix_of(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["fault_matrix"] == {"phases": [], "columns": [], "cells": []}
    assert "Fault matrix" not in (tmp_path / "report.html").read_text()


def test_hostile_text_is_harmless_in_the_matrix(tmp_path: Path) -> None:
    seen = record(migration=HOSTILE, error=HOSTILE, state=HOSTILE, refused=HOSTILE)
    seen = replace(seen, source_messages=(HOSTILE,), target_messages=(HOSTILE,))
    put(tmp_path, "x", [seen], [check("cpr-garbage", "ends", Outcome.FAIL, HOSTILE)])
    matrix_of(tmp_path)
    page = (tmp_path / "report.html").read_text()
    for harm in ("<script", "\x1b", "\u202e"):
        assert harm not in page
    assert 'href="#fault-x-cpr-garbage"' in page
    assert 'id="fault-x-cpr-garbage"' in page
