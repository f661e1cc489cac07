"""soak.json: what a soak came to so far, and all that it needs to go on.

Its members are fixed by docs/soak.schema.json; more may be added.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cprlib import files
from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.soak.record import SOAK_FILE, SOAK_SCHEMA, CaseRow
from cprlib.campaign.soak.resources import RESOURCES
from cprlib.campaign.soak.result import SoakResult
from cprlib.codec import encode
from cprlib.report.formatting import utc
from cprlib.report.schema import check_schema

NOT_KEPT = (CellOutcome.PASSED, CellOutcome.SKIPPED)


def schema_file() -> Path:
    """The JSON schema (draft 2020-12) of soak.json."""
    return files.project_folder() / "docs" / "soak.schema.json"


def soak_value(result: SoakResult, *, cases: bool = True) -> dict[str, Any]:
    """A soak as the JSON object that soak.json holds. While it runs it has no verdict yet.

    :param cases: with the cases, of which there may be thousands.
    """
    ended = result.state != "running"
    return {
        "schema": SOAK_SCHEMA,
        "state": result.state,
        "verdict": result.verdict.outcome.value if ended else None,
        "exit_status": int(result.exit_status) if ended else None,
        "verdict_of_cases": result.cases_verdict.outcome.value if ended else None,
        "verdict_of_resources": result.resources_verdict.outcome.value if ended else None,
        "reasons": [encode(finding) for finding in result.verdict.reasons] if ended else [],
        "seed": result.wanted.seed,
        "engine": result.wanted.engine,
        "policy": result.wanted.policy,
        "command": result.command,
        "started": utc(result.wanted.started_ns),
        "finished": utc(result.finished_ns),
        "seconds": round(result.past.seconds, 3),
        "environment": encode(result.environment),
        "counts": {outcome.value: count for outcome, count in result.counts.items()},
        "resources": [_resource(result, place) for place in range(len(RESOURCES))] if ended else [],
        "sessions": encode(result.past.sessions),
        "samples": encode(result.past.samples),
        "cases": [_case(result, row) for row in result.past.cases] if cases else [],
    }


def _case(result: SoakResult, row: CaseRow) -> dict[str, Any]:
    folder = row.outcome not in NOT_KEPT or row.left  # to look for all would take longer with every case
    return {**encode(row), "folder": row.folder if folder and (result.folder / row.folder).is_dir() else None}


def _resource(result: SoakResult, place: int) -> dict[str, Any]:
    resource = RESOURCES[place]
    seen = result.trends[resource.name]
    return {
        "name": resource.name,
        "title": resource.title,
        "unit": resource.unit,
        "allowed": resource.size,
        "verdict": seen.outcome.value,
        "samples": seen.samples,
        "per_hour": seen.per_hour,
        "growth": seen.growth,
        "p": seen.p,
        "first": seen.first,
        "last": seen.last,
    }


class SoakFile:
    """soak.json of one soak, which is written after each case: what does not change any more is encoded once."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def write(self, result: SoakResult) -> Path:
        """Write soak.json into the soak's folder, whole or not at all; checked against its schema once it has ended.

        :raises InstrumentError: the result does not fit the schema.
        :raises EnvironmentFailure: the folder cannot be written.
        """
        if result.state != "running":
            _validate(soak_value(result))
        head = json.dumps(soak_value(result, cases=False), indent=1)
        cases = ",\n  ".join(self._text(result, row) for row in result.past.cases)
        path = result.folder / SOAK_FILE
        files.write_text(path, head.removesuffix("[]\n}") + f"[\n  {cases}\n ]\n}}\n", mode=0o600)
        return path

    def _text(self, result: SoakResult, row: CaseRow) -> str:
        known = self._texts.get(row.number)
        if known is not None:
            return known
        text = json.dumps(_case(result, row))
        if row.outcome in NOT_KEPT and not row.left:  # else the folder may have to make room for another one
            self._texts[row.number] = text
        return text


def _validate(value: dict[str, Any]) -> None:
    check_schema(value, schema_file(), "soak.json")
