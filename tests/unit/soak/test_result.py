"""A failed case, a process left behind or a leak fails a soak; too few samples are inconclusive."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from cprlib.campaign.outcome import JobOutcome
from cprlib.campaign.soak.output import SOAK_SCHEMA_FILE, report_html, report_text, soak_document, write_json_file
from cprlib.campaign.soak.result import SoakHistory, SoakResult, SoakSession, read_soak
from cprlib.codec import encode
from cprlib.errors import ExitStatus
from cprlib.evidence.records import Outcome
from tests.unit.mutation.samples import HOSTILE
from tests.unit.soak.samples import MACHINE, REQUEST, case, flat_samples, growing, result


def test_passed_cases_and_flat_resources_pass(tmp_path: Path) -> None:
    made = result(tmp_path, case(1), case(2, JobOutcome.SKIPPED, "no-target: none was given"))
    assert made.exit_status == ExitStatus.PASS
    assert made.sentence == "2 cases in 20.0 min: 1 passed, 1 skipped; resources flat"


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (JobOutcome.FAILED, ExitStatus.FAIL),
        (JobOutcome.INCONCLUSIVE, ExitStatus.INCONCLUSIVE),
        (JobOutcome.CRASHED, ExitStatus.INCONCLUSIVE),
    ],
)
def test_one_bad_case_decides(tmp_path: Path, outcome: JobOutcome, status: ExitStatus) -> None:
    made = result(tmp_path, case(1), case(2, outcome, "loss: 3 packets lost"), case(3))
    assert made.exit_status == status
    assert made.resources_verdict.outcome == Outcome.PASS
    assert any("case 2, test-a" in finding.about for finding in made.verdict.reasons)
    assert "3 packets lost" in report_text(made)


def test_case_that_left_a_process_fails(tmp_path: Path) -> None:
    made = result(tmp_path, case(1, left=("4711 qemu-system-x86_64 -machine q35",)))
    assert made.exit_status == ExitStatus.FAIL
    assert "it left 1 process behind: 4711 qemu-system-x86_64" in report_text(made)
    two = result(tmp_path, case(1, left=("4711 qemu", "4712 qemu")))
    assert "it left 2 processes behind: 4711 qemu" in report_text(two)
    assert made.sentence == "1 case in 20.0 min: 1 failed; resources flat"
    assert "✗ failed</td>" in report_html(made)


@pytest.mark.parametrize(("workers", "status"), [(1, ExitStatus.FAIL), (16, ExitStatus.PASS)])
def test_memory_of_many_cases_at_once_may_scatter_more(tmp_path: Path, workers: int, status: ExitStatus) -> None:
    made = result(tmp_path, samples=growing("children_memory", 40.0, flat_samples()))  # 560 MiB after the warm-up
    history = replace(made.history, sessions=(SoakSession(1, 1200.0, workers=workers),))
    assert replace(made, history=history).exit_status == status


def test_leak_fails_and_is_named(tmp_path: Path) -> None:
    made = result(tmp_path, samples=growing("descriptors", 1.0, flat_samples()))
    assert made.exit_status == ExitStatus.FAIL
    assert made.cases_verdict.outcome == Outcome.PASS
    assert [finding.about for finding in made.verdict.reasons] == ["descriptors"]
    assert "+60.00 per hour" in made.verdict.reasons[0].text


def test_too_few_samples_and_no_case_are_inconclusive(tmp_path: Path) -> None:
    assert result(tmp_path, samples=flat_samples(6)).exit_status == ExitStatus.INCONCLUSIVE
    assert result(tmp_path, samples=[]).exit_status == ExitStatus.INCONCLUSIVE
    nothing = SoakResult(tmp_path, REQUEST, SoakHistory(samples=tuple(flat_samples())), MACHINE, "ended")
    assert nothing.exit_status == ExitStatus.INCONCLUSIVE
    skipped = result(tmp_path, case(1, JobOutcome.SKIPPED, "no-vhost: none"))
    assert skipped.cases_verdict.outcome == Outcome.INCONCLUSIVE


def test_growth_that_is_not_significant_is_reported(tmp_path: Path) -> None:
    samples = [
        replace(sample, values={**sample.values, "memory": 100.0 + 9 * place + 60 * (-1) ** place})
        for place, sample in enumerate(flat_samples(12))
    ]
    made = result(tmp_path, samples=samples)
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert "it may grow" in report_text(made)
    assert "may grow" in report_html(made)


def test_resource_that_cannot_be_read_is_inconclusive(tmp_path: Path) -> None:
    samples = [
        sample.__class__(sample.session, sample.at_s, sample.cases, {**sample.values, "mounts": None})
        for sample in flat_samples()
    ]
    made = result(tmp_path, samples=samples)
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert "0 samples after" in report_text(made)


@pytest.mark.parametrize("state", ["running", "interrupted", "ended"])
def test_json_fits_its_schema_and_is_read_back(tmp_path: Path, state: str) -> None:
    cases = (case(1), case(2, JobOutcome.FAILED, HOSTILE, left=(HOSTILE,)))
    made = result(tmp_path, *cases, state=state, samples=growing("memory", 9, flat_samples()))
    (tmp_path / cases[1].folder).mkdir(parents=True)
    path = write_json_file(made)
    value = json.loads(path.read_text())
    jsonschema.validate(value, json.loads(SOAK_SCHEMA_FILE.path.read_text()), cls=jsonschema.Draft202012Validator)
    assert value["kept"] == ["kept/000002-test-a"]
    assert (value["verdict"] is None) == (state == "running")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_soak(tmp_path) == made.history
    assert value == encode(soak_document(made))


def test_schema_requires_every_member(tmp_path: Path) -> None:
    value = encode(soak_document(result(tmp_path)))
    schema = json.loads(SOAK_SCHEMA_FILE.path.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for name in schema["$defs"]["SoakDocument"]["required"]:
        broken = {key: member for key, member in value.items() if key != name}
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(broken)


@pytest.mark.pictures
def test_page_shows_everything_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    bad = case(2, JobOutcome.FAILED, HOSTILE, parameters={"rate": HOSTILE}, left=(HOSTILE,))
    (tmp_path / bad.folder).mkdir(parents=True)
    (tmp_path / bad.folder / "report.html").touch()
    samples = [*flat_samples(10), *flat_samples(10, session=1, start_s=700)]
    sessions = (SoakSession(1, 600.0), SoakSession(2, 600.0))
    made = result(tmp_path, samples=growing("descriptors", 2, samples), command=HOSTILE)
    made = SoakResult(
        tmp_path, REQUEST, SoakHistory(sessions, made.history.samples, (case(1), bad)), MACHINE, "ended", HOSTILE
    )
    page = report_html(made)
    assert 'href="kept/000002-test-a/report.html"' in page
    assert "grows" in page
    assert "data:image/svg+xml;base64," in page
    for foreign in ("http://", "https://", "<script", "<link", "@import", "url(", "\x1b", "\u202e"):
        assert foreign not in page
    for line in report_text(made).splitlines():
        assert len(line) <= 120
        assert "\x1b" not in line


def test_folder_that_made_room_for_another_is_not_listed(tmp_path: Path) -> None:
    made = result(tmp_path, case(1), case(2, JobOutcome.FAILED, HOSTILE), state="running")
    kept = tmp_path / made.history.cases[1].folder
    kept.mkdir(parents=True)
    assert json.loads(write_json_file(made).read_text())["kept"] == ["kept/000002-test-a"]
    kept.rmdir()
    assert json.loads(write_json_file(made).read_text())["kept"] == []
