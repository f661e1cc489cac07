"""The matrix in the terminal, on the page, in Markdown and JSON; foreign text does no harm in any of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from cprlib.campaign.mutation.assemble import write_matrix
from cprlib.campaign.mutation.matrix import Build, Matrix
from cprlib.campaign.mutation.matrix_json import matrix_value, schema_file
from cprlib.campaign.mutation.matrix_markdown import LINES, matrix_markdown
from cprlib.campaign.mutation.matrix_text import matrix_text
from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.evidence.terms import Outcome
from tests.unit.mutation.samples import CAUGHT, GOOD, HOSTILE, judged, matrix, row, variant

MISSED = row(
    Build(variant("missed")), {"test-a": judged(CellOutcome.PASSED), "test-b": judged(CellOutcome.CRASHED, "x")}
)


def hostile(folder: Path) -> Matrix:
    bad = variant(subject=HOSTILE, body=HOSTILE, message="lost", killed_by=("test-a", "test-b"))
    cells = {"test-a": judged(CellOutcome.DETECTED, HOSTILE * 300), "test-b": judged(CellOutcome.CRASHED, HOSTILE)}
    rows = (GOOD, row(Build(bad), cells, problem=""), row(Build(variant("other")), {}, problem=HOSTILE))
    return matrix(folder, *rows, command=HOSTILE, notes=(HOSTILE,))


def test_text_has_a_grid_a_legend_and_ends_with_the_verdict(tmp_path: Path) -> None:
    lines = matrix_text(matrix(tmp_path, GOOD, CAUGHT, MISSED)).splitlines()
    assert lines[0].split() == ["1", "2"]
    assert lines[1].split() == ["good", "build,", "run", "1", ".", "."]
    assert lines[2].split() == ["one-packet-lost", "D", "."]
    assert lines[3].split() == ["missed", "!", "x"]
    assert "   1  test-a" in lines
    assert lines[-1].startswith("verdict: FAIL (1 of 2 variants detected")
    assert any("detected by test-a after 12.3 s: loss: 2 packets lost forward" in line for line in lines)


def test_wide_text_is_a_list(tmp_path: Path) -> None:
    tests = [f"test-{number}" for number in range(60)]
    many = row(Build(), {test: judged(CellOutcome.PASSED) for test in tests})
    text = matrix_text(matrix(tmp_path, many, CAUGHT, tests=tests))
    assert max(map(len, text.splitlines())) <= 120
    assert "60 of 60 tests passed" in text


def test_page_links_each_cell_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "cells/variants/one-packet-lost/test-a").mkdir(parents=True)
    (tmp_path / "cells/variants/one-packet-lost/test-a/report.html").write_text("")
    write_matrix(matrix(tmp_path, GOOD, CAUGHT, MISSED))
    page = (tmp_path / "matrix.html").read_text()
    assert 'href="cells/variants/one-packet-lost/test-a/report.html"' in page
    assert 'href="cells/good/run-1/test-b/"' in page
    assert page.index("✗ fail") < page.index("Builds by tests")
    for foreign in ("http://", "https://", "<script", "<link", "@import", "url("):
        assert foreign not in page


def test_hostile_text_is_harmless(tmp_path: Path) -> None:
    whole = hostile(tmp_path)
    write_matrix(whole)
    page = (tmp_path / "matrix.html").read_text()
    for text in (page, matrix_text(whole), matrix_markdown(whole)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<script" not in matrix_markdown(whole)
    assert "[a](b)" not in matrix_markdown(whole).replace("\\[", "")
    assert not any(line.startswith("# head") for line in matrix_markdown(whole).splitlines())
    assert len(page) < 200_000


def test_summary_has_forty_lines_at_most_and_the_worst_first(tmp_path: Path) -> None:
    rows = [
        row(
            Build(variant(f"variant-{number}")),
            {"test-a": judged(CellOutcome.DETECTED, "x" if number % 2 else "packet lost")},
        )
        for number in range(80)
    ]
    text = matrix_markdown(matrix(tmp_path, GOOD, *rows, command="cprlib prove"))
    assert len(text.splitlines()) <= LINES
    assert "✗ FAIL" in text.splitlines()[0]
    assert "variant-1 |" in text.splitlines()[4]
    assert "more |" in text
    assert "- and 32 more" in text


def test_value_fits_the_schema_and_every_member_is_required(tmp_path: Path) -> None:
    schema = json.loads(schema_file().read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for whole in (matrix(tmp_path), hostile(tmp_path), matrix(tmp_path, replace(GOOD, cells={}), MISSED)):
        value = matrix_value(whole)
        jsonschema.validate(value, schema)
        for member in schema["required"]:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({name: item for name, item in value.items() if name != member}, schema)


def test_json_says_what_must_detect_and_what_did(tmp_path: Path) -> None:
    write_matrix(matrix(tmp_path, GOOD, CAUGHT, MISSED))
    value = json.loads((tmp_path / "matrix.json").read_text())
    assert (value["verdict"], value["exit_status"]) == ("fail", 1)
    caught, missed = value["builds"][1:]
    assert caught["detected_by"] == [{"test": "test-a", "seconds": 12.3, "message": "loss: 2 packets lost forward"}]
    assert caught["cells"][0]["message_matches"] is True
    assert missed["verdict"] == Outcome.FAIL
    assert [cell["outcome"] for cell in missed["cells"]] == ["passed", "crashed"]


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    write_matrix(matrix(tmp_path))
    for name in ("matrix.json", "matrix.html", "matrix.md"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
