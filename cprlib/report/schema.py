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
        (reference,), definitions = msgspec.json.schema_components(
            (self.record,), schema_hook=None, ref_template="#/$defs/{name}"
        )
        for name, kind in _records(self.record).items():
            _describe(definitions[name], kind)
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


def _records(kind: Any) -> dict[str, type]:
    """All records that a type contains, by name."""
    found: dict[str, type] = {}

    def visit(node: Any) -> None:
        if isinstance(node, msgspec.inspect.DataclassType | msgspec.inspect.StructType):
            if node.cls.__name__ in found:
                return
            found[node.cls.__name__] = node.cls
        elif isinstance(node, msgspec.inspect.EnumType):
            found[node.cls.__name__] = node.cls
        if isinstance(node, msgspec.Struct):
            for name in node.__struct_fields__:
                member = getattr(node, name)
                for item in member if isinstance(member, tuple) else (member,):
                    visit(item)

    visit(msgspec.inspect.type_info(kind))
    return found


def _describe(schema: dict[str, Any], kind: type) -> None:
    """Put a record's docstring into its schema: the text, and each ``:param`` at its property."""
    text = inspect.cleandoc(kind.__doc__ or "")
    schema["description"] = _plain(text.partition(":param")[0])
    for name, meaning in parameters(kind).items():
        for property_name in (name, name.rstrip("_")):
            if property_name in schema.get("properties", {}):
                schema["properties"][property_name]["description"] = meaning


def parameters(kind: type) -> dict[str, str]:
    """The ``:param`` texts of a record and of the records that it extends; several names may share one."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for names, meaning in PARAMETERS.findall(inspect.cleandoc(base.__doc__ or "")):
            found |= dict.fromkeys(names.split(", "), _plain(meaning))
    return found


def _plain(text: str) -> str:
    """One paragraph without reStructuredText's marks."""
    return " ".join(re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"\1\2", text).split()).rstrip(";")
