"""matrix.json: the interface for programs. Its members are fixed by docs/matrix.schema.json; more may be added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cprlib import files
from cprlib.campaign.mutation.matrix import Cell, Matrix, Row
from cprlib.codec import encode
from cprlib.report.formatting import utc
from cprlib.report.schema import check_schema

MATRIX_FILE = "matrix.json"
MATRIX_SCHEMA = 1


def schema_file() -> Path:
    """The JSON schema (draft 2020-12) of matrix.json."""
    return files.project_folder() / "docs" / "matrix.schema.json"


def matrix_value(matrix: Matrix) -> dict[str, Any]:
    """A matrix as the JSON object that matrix.json holds."""
    return {
        "schema": MATRIX_SCHEMA,
        "verdict": matrix.outcome.value,
        "exit_status": int(matrix.exit_status),
        "base": matrix.base,
        "tests_per_variant": "all" if matrix.whole else "detected_by",
        "engine": matrix.engine or None,
        "command": matrix.command,
        "started": utc(matrix.started_ns),
        "finished": utc(matrix.finished_ns),
        "environment": encode(matrix.environment),
        "lab_lost": matrix.lab_lost,
        "notes": list(matrix.notes),
        "tests": [{"id": name, "reference": reference} for name, reference in matrix.tests.items()],
        "builds": [_row(row) for row in matrix.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    variant = row.build.variant
    return {
        "kind": "variant" if variant else "good",
        "name": row.build.name,
        "run": None if variant else row.build.run,
        "verdict": row.outcome.value,
        "reasons": [encode(reason) for reason in row.reasons],
        "title": variant.subject if variant else "",
        "description": variant.body if variant else "",
        "leave_out": list(variant.leaves_out) if variant else [],
        "patches": [path.name for path in variant.patches] if variant else [],
        "must_be_detected_by": list(variant.killed_by) if variant else [],
        "message": variant.message if variant else "",
        "qemu": {"path": row.qemu, "sha256": row.sha256},
        "detected_by": [
            {"test": cell.test, "seconds": cell.judged.seconds, "message": row.message(cell)} for cell in row.detections
        ],
        "not_run": [test for test in row.wanted if test not in row.cells],
        "cells": [_cell(row, cell) for cell in row.cells.values()],
    }


def _cell(row: Row, cell: Cell) -> dict[str, Any]:
    variant = row.build.variant
    return {
        "test": cell.test,
        "outcome": cell.judged.outcome.value,
        "must_detect": row.build.must(cell.test),
        "message_matches": cell.judged.matches(variant.message) if variant else None,
        "seconds": cell.judged.seconds,
        "messages": list(cell.judged.messages),
        "folder": cell.folder,
        "lab_lost": cell.lab_lost,
        "inputs_changed": cell.changed,
    }


def write_matrix_json(matrix: Matrix) -> Path:
    """Validate and write matrix.json into the proof's folder, whole or not at all.

    :raises InstrumentError: the matrix does not fit the schema.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    value = matrix_value(matrix)
    check_schema(value, schema_file(), "matrix.json")
    path = matrix.folder / MATRIX_FILE
    files.write_text(path, json.dumps(value, indent=2) + "\n", mode=0o600)
    return path
