"""run.json: the interface for programs. Its members are fixed by docs/run.schema.json; more may be added, none goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cprlib import files
from cprlib.codec import encode
from cprlib.evidence.case import Interruption, Outcome
from cprlib.report.fault_matrix import fault_matrix
from cprlib.report.formatting import utc
from cprlib.report.run_report import RunReport, seconds_of
from cprlib.report.schema import check_schema
from cprlib.verdict.findings import Verdict
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.traffic_rules import unexplained_packets

RUN_FILE = "run.json"
RUN_SCHEMA = 2


def schema_file() -> Path:
    """The JSON schema (draft 2020-12) of run.json."""
    return files.project_folder() / "docs" / "run.schema.json"


def run_value(report: RunReport) -> dict[str, Any]:
    """A run as the JSON object that run.json holds."""
    return {
        "schema": RUN_SCHEMA,
        "verdict": report.verdict.outcome.value,
        "exit_status": int(report.exit_status),
        "reasons": _reasons(report.verdict),
        "problems": list(report.problems),
        "policy": encode(report.policy),
        "started": utc(report.started_ns),
        "finished": utc(report.finished_ns),
        "command": report.command,
        "environment": {**encode(report.environment), "lab_retries": report.lab_retries},
        "qemu": [encode(qemu) for qemu in report.qemus],
        "cases": [case_value(case) for case in report.cases],
        "fault_matrix": _fault_matrix(report),
    }


def case_value(judged: JudgedCase) -> dict[str, Any]:
    """One member of ``cases``. Figures that are not known are null."""
    case = judged.evidence
    forward, back = case.interruption.forward, case.interruption.return_
    return {
        "id": case.id,
        "verdict": judged.outcome.value,
        "mechanism": case.mechanism.value,
        "sent": case.sent,
        "loss": encode(case.loss),
        "duplicates": case.duplicates.total,
        "reordered": case.reordered.total,
        "interruption_ms": {"forward": forward.high_ms, "return": back.high_ms},
        "fds": encode(case.fds),
        "unexplained": unexplained_packets(case),
        "title": case.title,
        "role": case.role.value,
        "test": case.test,
        "reasons": _reasons(judged.verdict),
        "skipped": case.skipped,
        "parameters": encode(case.parameters),
        "updates": case.updates,
        "per_update": encode(case.per_update),
        "duplicates_by_direction": encode(case.duplicates),
        "reordered_by_direction": encode(case.reordered),
        "interruption_range_ms": {"forward": _range(forward), "return": _range(back)},
        "interruption_frame_loss_ms": {"forward": forward.frame_loss_ms, "return": back.frame_loss_ms},
        "qemu_downtime_ms": case.qemu_downtime_ms,
        "budget_ms": case.budget.longest_pause_ms if case.budget else None,
        "control_run_interruption_ms": case.instrument.control_run_interruption_ms,
        "seconds": seconds_of(case),
        "retries": case.retries,
        "warnings": list(case.warnings),
        "reproduce": case.reproduce,
        "folder": f"cases/{case.id}",
    }


def _fault_matrix(report: RunReport) -> dict[str, Any]:
    matrix = fault_matrix(report)
    return {
        "phases": list(matrix.phases),
        "columns": [encode(column) for column in matrix.columns],
        "cells": [
            {
                **encode(entry.fault),
                "fault": entry.fault.name,
                "case": entry.case,
                "setting": entry.setting,
                "verdict": entry.outcome.value,
                "died": entry.died,
                "reasons": [encode(finding) for finding in entry.findings if finding.outcome != Outcome.PASS],
            }
            for entry in matrix.entries
        ],
    }


def _range(seen: Interruption) -> list[float] | None:
    return None if seen.low_ms is None or seen.high_ms is None else [seen.low_ms, seen.high_ms]


def _reasons(verdict: Verdict) -> list[dict[str, str]]:
    return [encode(finding) for finding in verdict.reasons]


def validate(value: object) -> None:
    """Hold a value against the schema.

    :raises InstrumentError: it does not fit; the message has the path to the member.
    """
    check_schema(value, schema_file(), "run.json")


def write_run_json(report: RunReport) -> Path:
    """Validate and write run.json into the results folder, whole or not at all.

    :raises InstrumentError: the report does not fit the schema.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    value = run_value(report)
    validate(value)
    path = report.folder / RUN_FILE
    files.write_text(path, json.dumps(value, indent=2) + "\n", mode=0o600)
    return path
