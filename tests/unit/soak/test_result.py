"""A failing case, a leftover or a leak fails a soak; too little is inconclusive; foreign text does no harm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.soak.record import Past, Session, read_past
from cprlib.campaign.soak.result import SoakResult
from cprlib.campaign.soak.soak_html import render
from cprlib.campaign.soak.soak_json import SoakFile, schema_file, soak_value
from cprlib.campaign.soak.soak_text import soak_text
from cprlib.errors import ExitStatus
from cprlib.evidence.terms import Outcome
from tests.unit.mutation.samples import HOSTILE
from tests.unit.soak.samples import MACHINE, WANTED, flat_samples, growing, result, row


def test_passed_cases_and_flat_resources_pass(tmp_path: Path) -> None:
    made = result(tmp_path, row(1), row(2, CellOutcome.SKIPPED, "no-target: none was given"))
    assert made.exit_status == ExitStatus.PASS
    assert made.sentence == "2 cases in 20.0 min: 1 passed, 1 skipped; resources flat"


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (CellOutcome.DETECTED, ExitStatus.FAIL),
        (CellOutcome.INCONCLUSIVE, ExitStatus.INCONCLUSIVE),
        (CellOutcome.CRASHED, ExitStatus.INCONCLUSIVE),
    ],
)
def test_one_bad_case_decides(tmp_path: Path, outcome: CellOutcome, status: ExitStatus) -> None:
    made = result(tmp_path, row(1), row(2, outcome, "loss: 3 packets lost"), row(3))
    assert made.exit_status == status
    assert made.resources_verdict.outcome == Outcome.PASS
    assert any("case 2, test-a" in finding.about for finding in made.verdict.reasons)
    assert "3 packets lost" in soak_text(made)


def test_process_that_a_case_left_fails(tmp_path: Path) -> None:
    made = result(tmp_path, row(1, left=("4711 qemu-system-x86_64 -machine q35",)))
    assert made.exit_status == ExitStatus.FAIL
    assert "4711 qemu-system-x86_64" in soak_text(made)


def test_leak_fails_and_is_named(tmp_path: Path) -> None:
    made = result(tmp_path, samples=growing("descriptors", 1.0, flat_samples()))
    assert made.exit_status == ExitStatus.FAIL
    assert made.cases_verdict.outcome == Outcome.PASS
    assert [finding.about for finding in made.verdict.reasons] == ["descriptors"]
    assert "+60.00 an hour" in made.verdict.reasons[0].text


def test_too_little_is_inconclusive(tmp_path: Path) -> None:
    assert result(tmp_path, samples=flat_samples(6)).exit_status == ExitStatus.INCONCLUSIVE
    assert result(tmp_path, samples=[]).exit_status == ExitStatus.INCONCLUSIVE
    nothing = SoakResult(tmp_path, WANTED, Past(samples=tuple(flat_samples())), MACHINE, "ended")
    assert nothing.exit_status == ExitStatus.INCONCLUSIVE
    skipped = result(tmp_path, row(1, CellOutcome.SKIPPED, "no-vhost: none"))
    assert skipped.cases_verdict.outcome == Outcome.INCONCLUSIVE


def test_growth_that_is_not_sure_is_said_so(tmp_path: Path) -> None:
    samples = [
        replace(sample, values={**sample.values, "memory": 100.0 + 9 * place + 60 * (-1) ** place})
        for place, sample in enumerate(flat_samples(12))
    ]
    made = result(tmp_path, samples=samples)
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert "it may grow" in soak_text(made)
    assert "may grow" in render(made)


def test_resource_that_cannot_be_read_is_inconclusive(tmp_path: Path) -> None:
    samples = [
        sample.__class__(sample.session, sample.at_s, sample.cases, {**sample.values, "mounts": None})
        for sample in flat_samples()
    ]
    made = result(tmp_path, samples=samples)
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert "looked at 0 times" in soak_text(made)


@pytest.mark.parametrize("state", ["running", "interrupted", "ended"])
def test_json_fits_its_schema_and_is_read_back(tmp_path: Path, state: str) -> None:
    rows = (row(1), row(2, CellOutcome.DETECTED, HOSTILE, left=(HOSTILE,)))
    made = result(tmp_path, *rows, state=state, samples=growing("memory", 9, flat_samples()))
    (tmp_path / rows[1].folder).mkdir(parents=True)
    path = SoakFile().write(made)
    value = json.loads(path.read_text())
    jsonschema.validate(value, json.loads(schema_file().read_text()), cls=jsonschema.Draft202012Validator)
    assert [case["folder"] for case in value["cases"]] == [None, "kept/000002-test-a"]
    assert (value["verdict"] is None) == (state == "running")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_past(tmp_path) == made.past
    assert value == soak_value(made)


def test_schema_refuses_what_is_no_soak(tmp_path: Path) -> None:
    value = soak_value(result(tmp_path))
    schema = json.loads(schema_file().read_text())
    for name in schema["required"]:
        broken = {key: member for key, member in value.items() if key != name}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema, cls=jsonschema.Draft202012Validator)


def test_page_shows_all_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    bad = row(2, CellOutcome.DETECTED, HOSTILE, parameters={"rate": HOSTILE}, left=(HOSTILE,))
    (tmp_path / bad.folder).mkdir(parents=True)
    (tmp_path / bad.folder / "report.html").touch()
    samples = [*flat_samples(10), *flat_samples(10, session=1, start_s=700)]
    sessions = (Session(1, 600.0), Session(2, 600.0))
    made = result(tmp_path, samples=growing("descriptors", 2, samples), command=HOSTILE)
    made = SoakResult(tmp_path, WANTED, Past(sessions, (row(1), bad), made.past.samples), MACHINE, "ended", HOSTILE)
    page = render(made)
    assert 'href="kept/000002-test-a/report.html"' in page
    assert "grows" in page
    assert "data:image/svg+xml;base64," in page
    for foreign in ("http://", "https://", "<script", "<link", "@import", "url(", "\x1b", "\u202e"):
        assert foreign not in page
    for line in soak_text(made).splitlines():
        assert len(line) <= 120
        assert "\x1b" not in line


def test_file_written_after_each_case_is_the_one_written_at_once(tmp_path: Path) -> None:
    outcomes = (CellOutcome.PASSED, CellOutcome.DETECTED, CellOutcome.SKIPPED, CellOutcome.CRASHED)
    rows = [row(number, outcome, HOSTILE) for number, outcome in enumerate(outcomes, 1)]
    kept, file = tmp_path / rows[1].folder, SoakFile()
    for count in range(len(rows) + 1):
        made = SoakResult(tmp_path, WANTED, Past((Session(1, 2.0),), tuple(rows[:count])), MACHINE)
        if count == 2:
            kept.mkdir(parents=True)
        path = file.write(made)
        assert json.loads(path.read_text()) == soak_value(made)
    kept.rmdir()  # to make room for another one
    assert json.loads(file.write(made).read_text())["cases"][1]["folder"] is None
