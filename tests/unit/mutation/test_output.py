"""The report in the terminal, on the page, in Markdown and JSON; foreign text does no harm in any of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from cprlib.campaign.mutation.output import SUMMARY_LINES, report_markdown, report_text, write_report
from cprlib.campaign.mutation.plan import Build
from cprlib.campaign.mutation.score import MUTATION_SCHEMA_FILE, MutationReport
from cprlib.campaign.outcome import WITHOUT_ALARM, JobOutcome
from cprlib.codec import encode
from cprlib.evidence.records import Outcome
from tests.unit.mutation.samples import GOOD, HOSTILE, KILLED, judged, mutant, report, results

SURVIVED = results(
    Build(mutant("survived")), {"test-a": judged(JobOutcome.PASSED), "test-b": judged(JobOutcome.CRASHED, "x")}
)


def hostile() -> MutationReport:
    bad = mutant(subject=HOSTILE, body=HOSTILE, message="lost", killed_by=("test-a", "test-b"))
    jobs = {"test-a": judged(JobOutcome.FAILED, HOSTILE * 300), "test-b": judged(JobOutcome.CRASHED, HOSTILE)}
    builds = (GOOD, results(Build(bad), jobs, problem=""), results(Build(mutant("other")), {}, problem=HOSTILE))
    return report(*builds, command=HOSTILE, notes=(HOSTILE,))


def test_text_has_a_grid_a_legend_and_ends_with_the_verdict() -> None:
    lines = report_text(report(GOOD, KILLED, SURVIVED)).splitlines()
    assert lines[0].split() == ["1", "2"]
    assert lines[1].split() == ["good", "build,", "run", "1", ".", "."]
    assert lines[2].split() == ["one-packet-lost", "K", "."]
    assert lines[3].split() == ["survived", ".!", "x"]
    assert "   1  test-a" in lines
    assert lines[-1].startswith("verdict: FAIL (mutation score 1 of 2;")
    assert any("killed by test-a after 12.3 s: loss: 2 packets lost forward" in line for line in lines)


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (JobOutcome.FAILED, "f!"),
        (JobOutcome.INCONCLUSIVE, "?!"),
        (JobOutcome.CRASHED, "x!"),
        (JobOutcome.SKIPPED, "s"),
        (JobOutcome.PASSED, "."),
    ],
)
def test_grid_marks_each_result_that_leaves_the_good_build_unproven(outcome: JobOutcome, shown: str) -> None:
    good = results(Build(), {"test-a": judged(outcome, "why"), "test-b": judged(JobOutcome.PASSED)})
    made = report(good, KILLED)
    assert report_text(made).splitlines()[1].split()[-2:] == [shown, "."]
    assert (made.verdict == Outcome.PASS) == (outcome in WITHOUT_ALARM)


def test_wide_text_is_a_list() -> None:
    tests = [f"test-{number}" for number in range(60)]
    many = results(Build(), {test: judged(JobOutcome.PASSED) for test in tests})
    text = report_text(report(many, KILLED, tests=tests))
    assert max(map(len, text.splitlines())) <= 120
    assert "60 of 60 tests passed" in text


def test_page_links_each_result_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "results/mutants/one-packet-lost/test-a").mkdir(parents=True)
    (tmp_path / "results/good/run-1/test-b").mkdir(parents=True)
    (tmp_path / "results/mutants/one-packet-lost/test-a/report.html").write_text("")
    write_report(tmp_path, report(GOOD, KILLED, SURVIVED))
    page = (tmp_path / "mutation.html").read_text()
    assert 'href="results/mutants/one-packet-lost/test-a/report.html"' in page
    assert 'href="results/good/run-1/test-b/"' in page
    assert page.index("✗ fail") < page.index("Builds by tests")
    for foreign in ("http://", "https://", "<script", "<link", "@import", "url("):
        assert foreign not in page


def test_hostile_text_is_harmless(tmp_path: Path) -> None:
    whole = hostile()
    write_report(tmp_path, whole)
    page = (tmp_path / "mutation.html").read_text()
    for text in (page, report_text(whole), report_markdown(whole)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<script" not in report_markdown(whole)
    *rest, command = report_markdown(whole).splitlines()
    assert "[a](b)" not in "\n".join(rest).replace("\\[", "")
    assert command.startswith("Run with ``")  # code, in which a link is none
    assert not any(line.startswith("# head") for line in report_markdown(whole).splitlines())
    assert len(page) < 200_000


def test_summary_has_forty_lines_at_most_and_the_worst_first() -> None:
    builds = [
        results(
            Build(mutant(f"mutant-{number}")),
            {"test-a": judged(JobOutcome.FAILED, "x" if number % 2 else "packet lost")},
        )
        for number in range(80)
    ]
    text = report_markdown(report(GOOD, *builds, command="cprlib prove"))
    assert len(text.splitlines()) <= SUMMARY_LINES
    assert "✗ FAIL" in text.splitlines()[0]
    assert "mutant-1 |" in text.splitlines()[4]
    assert "more |" in text
    assert "- and 32 more" in text


def test_one_lost_lab_is_in_the_singular() -> None:
    first, second = GOOD.results
    good = replace(GOOD, results=(replace(first, lab_lost=1, inputs_changed=True), second))
    made = report(good, KILLED)
    edited = "1 test ran while the project was edited; run again with --resume"
    assert made.notes == (edited, "replaced 1 lab that died")
    assert "; replaced 1 lab that died" in report_markdown(made)


def test_value_fits_the_schema_and_every_member_is_required() -> None:
    schema = json.loads(MUTATION_SCHEMA_FILE.path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for whole in (report(), hostile(), report(results(Build(), {}, planned=["test-a", "test-b"]), SURVIVED)):
        value = encode(whole)
        validator.validate(value)
        for member in schema["$defs"]["MutationReport"]["required"]:
            with pytest.raises(jsonschema.ValidationError):
                validator.validate({name: item for name, item in value.items() if name != member})


def test_json_has_the_tests_that_must_kill_and_those_that_did(tmp_path: Path) -> None:
    write_report(tmp_path, report(GOOD, KILLED, SURVIVED))
    value = json.loads((tmp_path / "mutation.json").read_text())
    assert (value["verdict"], value["exit_status"]) == ("fail", 1)
    killed, survived = value["builds"][1:]
    assert killed["killed_by"] == [{"test": "test-a", "seconds": 12.3, "message": "loss: 2 packets lost forward"}]
    assert killed["results"][0]["message_matches"] is True
    assert survived["verdict"] == Outcome.FAIL
    assert [item["outcome"] for item in survived["results"]] == ["passed", "crashed"]


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    write_report(tmp_path, report())
    for name in ("mutation.json", "mutation.html", "mutation.md"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
