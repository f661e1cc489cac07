"""compare.json, the interface for programs (docs/compare.schema.json), and compare.html, the page for people."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cprlib import files
from cprlib.campaign.compare import text
from cprlib.campaign.compare.chain import Chain
from cprlib.campaign.compare.comparison import WORDS, Comparison
from cprlib.campaign.compare.findings import Change, CountResult, DurationResult, Findings
from cprlib.campaign.compare.looks import ALARM
from cprlib.campaign.compare.picture import draw
from cprlib.codec import encode
from cprlib.report.formatting import utc
from cprlib.report.html import template_engine
from cprlib.report.schema import check_schema

JSON_FILE, PAGE_FILE, TEXT_FILE = "compare.json", "compare.html", "compare.txt"
COMPARE_SCHEMA = 1
PROGRAM_WORDS = {Change.SAME: "same", Change.REGRESS: "regress", Change.IMPROVE: "improve"}
MARKS = {Change.REGRESS: "✗", Change.SAME: "✓", Change.IMPROVE: "✓", Change.UNDECIDED: "?"}
CLASSES = {Change.REGRESS: "fail", Change.SAME: "pass", Change.IMPROVE: "pass", Change.UNDECIDED: "inconclusive"}


def schema_file() -> Path:
    """The JSON schema (draft 2020-12) of compare.json."""
    return files.project_folder() / "docs" / "compare.schema.json"


def write_comparison(made: Comparison, folder: Path) -> None:
    """Write compare.json, compare.html and compare.txt into a folder, each whole or not at all.

    :raises InstrumentError: the comparison does not fit the schema.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    value = comparison_value(made)
    check_schema(value, schema_file(), "compare.json")
    files.write_text(folder / JSON_FILE, json.dumps(value, indent=2) + "\n", mode=0o600)
    files.write_text(folder / TEXT_FILE, text.comparison_text(made), mode=0o600)
    files.write_text(folder / PAGE_FILE, render(made), mode=0o600)


def comparison_value(made: Comparison) -> dict[str, Any]:
    """A comparison as the JSON object that compare.json holds. Figures that are not known are null."""
    return {
        "schema": COMPARE_SCHEMA,
        "kind": made.kind,
        "verdict": _word(made.change),
        "exit_status": int(made.exit_status),
        "reason": made.reason,
        "regressions": list(made.regressions),
        "a": encode(made.a),
        "b": encode(made.b),
        "cases": [
            {
                "id": sample.case,
                "paired": sample.paired,
                "a": [_chain(chain) for chain in sample.a],
                "b": [_chain(chain) for chain in sample.b],
                "durations": [_duration(item) for item in made.findings.durations if item.case == sample.case],
                "counts": [_count(item) for item in made.findings.counts if item.case == sample.case],
                "accusations": [encode(item) for item in made.findings.accusations if item.case == sample.case],
            }
            for sample in made.samples
        ],
        "a_against_a": None if made.control is None else [_duration(item) for item in made.control.durations],
        "a_to_b": [_chain(chain) for chain in made.crossings],
        "rounds": [
            {
                "number": item.number,
                "started": utc(item.started_ns),
                "seconds": item.seconds,
                "order": [{"arm": arm, "case": case} for arm, case in item.order],
            }
            for item in made.rounds
        ],
        "looks": list(made.looks),
        "false_alarm": ALARM,
        "confidence_of_last_look": made.look.confidence,
        "min_effect": encode(made.effect),
        "budget_s": made.budget_s,
        "seed": made.seed,
        "policy": made.policy,
        "parameters": made.parameters,
        "environment": encode(made.environment),
        "doubts": list(made.doubts),
        "notes": list(made.notes),
        "command": made.command,
        "started": utc(made.started_ns or None),
        "finished": utc(made.finished_ns or None),
    }


def _word(change: Change) -> str:
    return PROGRAM_WORDS.get(change, "undecided")


def _duration(item: DurationResult) -> dict[str, Any]:
    return {
        **encode(replace(item, change=Change.SAME)),
        "metric": item.metric.name,
        "change": _word(item.change),
    }


def _count(item: CountResult) -> dict[str, Any]:
    return {**encode(item), "metric": item.metric.name, "change": _word(item.change)}


def _chain(chain: Chain) -> dict[str, Any]:
    return {
        "updates": chain.updates,
        "durations_ms": {name: [round(value, 3) for value in values] for name, values in chain.durations.items()},
        "packets": dict(chain.packets),
        "affected_updates": dict(chain.affected),
        "sent": chain.sent,
        "believed": chain.believed,
        "failures": list(chain.failures),
        "doubts": list(chain.doubts),
        "skipped": chain.skipped,
        "overlong": chain.overlong,
        "started": utc(chain.started_ns or None),
        "seconds": chain.seconds,
        "folder": chain.folder,
    }


def render(made: Comparison) -> str:
    """The page."""
    pictures = {
        sample.case: _address(draw(shown, sample.paired))
        for sample in made.samples
        if (shown := [item for item in made.findings.durations if item.case == sample.case and item.a_values])
    }
    template = template_engine(Path(__file__).parent.parent / "templates").get_template("compare.html")
    return template.render(
        made=made,
        verdict=WORDS[made.change],
        kind=CLASSES[made.change],
        mark=MARKS[made.change],
        pictures=pictures,
        text=text,
        of_case=_of_case,
        utc=utc,
        control=[text.duration_row(item) for item in made.control.durations] if made.control else (),
        marks=MARKS,
        classes=CLASSES,
        levels=text.levels(made),
        started=utc(made.started_ns or None),
        finished=utc(made.finished_ns or None),
    )


def _of_case(found: Findings, case: str) -> tuple[list[DurationResult], list[CountResult]]:
    return (
        [item for item in found.durations if item.case == case],
        [item for item in found.counts if item.case == case],
    )


def _address(svg: str) -> Markup:
    return Markup("data:image/svg+xml;base64,") + base64.b64encode(svg.encode()).decode()
