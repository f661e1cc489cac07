"""The JSON schemas in docs/ are those of the records, and describe each member that needs it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Annotated

import jsonschema
import msgspec
import pytest

from cprlib.cli.schemas import SCHEMA_FILES
from cprlib.errors import InstrumentError
from cprlib.report.schema import SchemaFile


class Pair(msgspec.Struct, frozen=True, rename={"return_": "return"}):
    """Two counts.

    :param forward, return_: packets of :class:`Pair`.
    """

    forward: Annotated[int, msgspec.Meta(ge=0)]
    return_: int | None = None


@dataclass(frozen=True)
class Document:
    """A document. More of it.

    :param pairs: some ``pairs``,
        in order; :param name: its name.
    """

    schema: int
    pairs: tuple[Pair, ...]
    name: str = ""


@pytest.mark.parametrize("schema", SCHEMA_FILES, ids=lambda schema: schema.name)
def test_file_is_generated_from_the_record(schema: SchemaFile) -> None:
    assert schema.path.read_text() == schema.text(), "run python3 -m cprlib.cli.schemas"
    jsonschema.Draft202012Validator.check_schema(json.loads(schema.text()))


def test_docstrings_become_descriptions() -> None:
    schema = json.loads(SchemaFile("x", 3, Document).text())
    assert schema["title"] == "x.json of cprlib, schema 3"
    document, pair = schema["$defs"]["Document"], schema["$defs"]["Pair"]
    assert document["description"] == "A document. More of it."
    assert document["properties"]["pairs"]["description"] == "some pairs, in order"
    assert document["properties"]["name"]["description"] == "its name."
    assert pair["properties"]["return"]["description"] == "packets of Pair."
    assert (document["required"], pair["required"]) == (["schema", "pairs"], ["forward"])


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ({"schema": 3, "pairs": [{"forward": 1, "return": None}], "new": 1}, True),
        ({"schema": 3, "pairs": [{"forward": -1}]}, False),
        ({"schema": 3, "pairs": [{"forward": "1"}]}, False),
        ({"schema": 3}, False),
    ],
)
def test_schema_refuses_what_the_record_refuses(value: object, valid: bool) -> None:
    schema = json.loads(SchemaFile("x", 3, Document).text())
    assert jsonschema.Draft202012Validator(schema).is_valid(value) is valid
    with contextlib.nullcontext() if valid else pytest.raises(InstrumentError, match=r"cannot write x\.json: .*pairs"):
        SchemaFile("x", 3, Document).check(value)
