"""JSON schemas (draft 2020-12) of soak.json, compare.json and mutation.json, generated from the types they hold.

``python -m cprlib.campaign.schemas`` writes them to docs/; a unit test checks that they are up to date.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from cprlib import files
from cprlib.campaign.compare.output import CompareDocument
from cprlib.campaign.mutation.output import MutationDocument
from cprlib.campaign.page import schema_file
from cprlib.campaign.soak.output import SoakDocument

DOCUMENTS = {"mutation": MutationDocument, "soak": SoakDocument, "compare": CompareDocument}


def schema_text(name: str) -> str:
    """The schema of ``<name>.json``. Readers must accept members that it does not name."""
    (root,), parts = msgspec.json.schema_components([DOCUMENTS[name]], ref_template="#/$defs/{name}")
    document: dict[str, Any] = parts.pop(root["$ref"].removeprefix("#/$defs/"))
    schema = {
        **document,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{name}.json of cprlib {'prove' if name == 'mutation' else name}",
        "$defs": parts,
    }
    return json.dumps(schema, indent=1) + "\n"


def main() -> None:
    """Write all schemas."""
    for name in DOCUMENTS:
        files.write_text(schema_file(name), schema_text(name))


if __name__ == "__main__":
    main()
