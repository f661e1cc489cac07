"""JSON files that programs read: each is held against its schema before it is written."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from cprlib.errors import InstrumentError


def check_schema(value: object, schema: Path, name: str) -> None:
    """Hold a value against a JSON schema (draft 2020-12).

    :param schema: the schema's file.
    :param name: of the file that the value is to become, for the message: ``"run.json"``.
    :raises InstrumentError: it does not fit; the message has the path to the member.
    """
    try:
        jsonschema.validate(value, json.loads(schema.read_text(encoding="utf-8")), cls=jsonschema.Draft202012Validator)
    except jsonschema.ValidationError as error:
        raise InstrumentError(f"write {name}", f"{error.json_path}: {error.message}", "report this as a bug") from error
