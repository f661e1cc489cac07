"""The published schemas are those of the types, and valid."""

from __future__ import annotations

import json

import jsonschema
import pytest

from cprlib.campaign.page import schema_file
from cprlib.campaign.schemas import DOCUMENTS, schema_text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_schema_is_up_to_date(name: str) -> None:
    assert schema_file(name).read_text() == schema_text(name), "run `python -m cprlib.campaign.schemas`"
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text(name)))
