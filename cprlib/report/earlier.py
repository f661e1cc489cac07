"""What an earlier report of a results folder knew of the run and its evidence does not: machine and command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from cprlib.report.environment import Environment


def read_earlier(results: Path) -> tuple[Environment, str] | None:
    """Environment and command line of the run, from its run.json; None when there is none that can be read."""
    try:
        value = json.loads((results / "run.json").read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(Environment)}
        environment = Environment(**{name: item for name, item in value["environment"].items() if name in known})
        return environment, str(value.get("command") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
