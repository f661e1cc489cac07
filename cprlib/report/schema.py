"""JSON schemas (draft 2020-12) of the files that programs read, generated from the records that the files hold."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from cprlib.codec import BadValue, decode
from cprlib.errors import InstrumentError
from cprlib.files import project_folder

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PARAMETERS = re.compile(r":param ([\w, ]+): (.*?)(?=:param|:raises|:returns|\Z)", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class SchemaFile:
    """A schema in docs/ and the record that it describes.

    :param name: of the JSON file, without ``.json``; :param version: its member ``schema``.
    """

    name: str
    version: int
    record: Any

    @property
    def path(self) -> Path:
        """``docs/run.schema.json``."""
        return project_folder() / "docs" / f"{self.name}.schema.json"

    def text(self) -> str:
        """The schema, with the docstrings of the records as descriptions."""
        (reference,), definitions = msgspec.json.schema_components((self.record,), ref_template="#/$defs/{name}")
        for definition in definitions.values():
            _describe(definition)
        head = {
            "$schema": DIALECT,
            "$id": f"urn:cprlib:{self.name}:{self.version}",
            "title": f"{self.name}.json of cprlib, schema {self.version}",
            **reference,
        }
        return json.dumps({**head, "$defs": definitions}, indent=2) + "\n"

    def check(self, value: object) -> None:
        """Check that JSON values are a document of this version.

        :raises InstrumentError: they are none; the message has the path to the member.
        """
        try:
            decode(self.record, value)
        except BadValue as error:
            raise InstrumentError(f"write {self.name}.json", str(error), "report this as a bug") from error


def _describe(schema: dict[str, Any]) -> None:
    """Divide a record's docstring, which msgspec takes as its description: each ``:param`` describes its property."""
    text = inspect.cleandoc(schema.get("description", ""))
    schema["description"] = _plain(text.partition(":param")[0])
    for names, meaning in PARAMETERS.findall(text):
        for name in names.split(", "):
            for property_name in (name, name.rstrip("_")):
                if property_name in schema.get("properties", {}):
                    schema["properties"][property_name]["description"] = _plain(meaning)


def _plain(text: str) -> str:
    """One paragraph without reStructuredText's marks."""
    return " ".join(re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"\1\2", text).split()).rstrip(";")
