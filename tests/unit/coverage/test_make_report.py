"""From counts of cases to lines by patch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.coverage import SourceLine
from cprlib.build.series import releases
from cprlib.campaign.coverage.collect import CaseCounts, LineCounts
from cprlib.campaign.coverage.make_report import UncoveredReason, load_reasons, make_report, places_of
from cprlib.campaign.coverage.output import ranges, report_html, report_markdown, report_text, write_report
from cprlib.campaign.coverage.records import CoverageReport
from cprlib.codec import load_json
from cprlib.errors import InstrumentError, UsageError
from cprlib.evidence.records import Outcome
from cprlib.report.environment import Environment
from tests.unit.coverage import samples
from tests.unit.coverage.samples import BUILD, FIRST, ONE, REASON, SOURCES, TAP, TWO

pytestmark = pytest.mark.fast


def test_lines_are_those_of_the_patch_that_wrote_them(tmp_path: Path) -> None:
    first, second = samples.report(tmp_path).patches
    assert [(line.line, line.count) for line in first.lines] == [(10, 5), (20, 0)]
    assert [(line.line, line.count) for line in second.lines] == [(12, 1)]
    assert (first.number, first.subject) == (1, "one: <b>bold</b>")


def test_counters_without_a_line_of_the_series_are_no_pass(tmp_path: Path) -> None:
    other = CaseCounts(ONE, True, {("elsewhere/net/tap.c", 10): LineCounts(1)})
    with pytest.raises(InstrumentError, match="no line of the series"):
        make_report("10.0", samples.series(tmp_path), BUILD, [other], (), environment=Environment())


def test_branches_and_tests_of_a_line_are_those_of_all_cases(tmp_path: Path) -> None:
    report = samples.report(tmp_path)
    assert report.lines[0].branches == (4, 1)
    assert {line.line: line.tests for line in report.lines} == {10: (ONE, TWO), 12: (TWO,), 20: ()}
    assert report.not_passed == (TWO,)


def test_line_that_no_test_runs_fails_without_a_reason(tmp_path: Path) -> None:
    report = samples.report(tmp_path)
    assert report.verdict is Outcome.FAIL
    assert "net/tap.c:20: return -1;" in report_text(report)
    explained = samples.report(tmp_path, REASON)
    assert explained.verdict is Outcome.PASS
    assert "out of memory" in report_markdown(explained)
    assert explained.lines[2].reason == ""  # it runs


def test_reason_that_applies_to_no_line_is_listed(tmp_path: Path) -> None:
    report = samples.report(tmp_path, REASON, UncoveredReason(TAP, "if (s->cpr) {", "never"))
    assert report.unused_reasons == ("net/tap.c: if (s->cpr) {",)
    report = samples.report(tmp_path, REASON, UncoveredReason(TAP, "if (s->cpr) {", REASON.reason))
    assert report.unused_reasons == ("net/tap.c: if (s->cpr) {",)


def test_reason_fits_consecutive_lines_whatever_their_indentation() -> None:
    two = UncoveredReason(TAP, "/* a comment */\n  return -1;\n}", "x")
    assert places_of(two, SOURCES) == [(TAP, 11), (TAP, 12), (TAP, 13)]
    assert places_of(UncoveredReason("net/net.c", "return -1;", "x"), SOURCES) == []
    assert places_of(UncoveredReason(TAP, "context\nreturn -1;", "x"), SOURCES) == [(TAP, 19), (TAP, 20)]


def test_code_and_reasons_stay_in_their_cells(tmp_path: Path) -> None:
    code, reason = "f(`a` | b);", UncoveredReason(TAP, "f(`a` | b);", "*never* | [x](y)")
    build = replace(BUILD, lines=(SourceLine(FIRST, TAP, 1, code),), sources={TAP: (code,)})
    cases = (CaseCounts(ONE, True, {(TAP, 1): LineCounts(0)}),)

    def markdown(*reasons: UncoveredReason) -> str:
        made = make_report("10.0", samples.series(tmp_path), build, cases, reasons, environment=Environment())
        return report_markdown(made)

    assert "| net/tap.c:1 | ``f(`a` \\| b);`` | \\*never\\* \\| \\[x\\](y) |" in markdown(reason)
    assert "- ``net/tap.c:1: f(`a` | b);``" in markdown()


def test_report_is_written_and_its_text_is_escaped(tmp_path: Path) -> None:
    report = samples.report(tmp_path, REASON)
    write_report(tmp_path, report)
    assert load_json(CoverageReport, (tmp_path / "coverage.json").read_bytes()) == report
    page = report_html(report)
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    assert ONE in page


def test_page_links_the_report_of_the_run_where_there_is_one(tmp_path: Path) -> None:
    write_report(tmp_path, samples.report(tmp_path))
    assert "report.html" not in (tmp_path / "coverage.html").read_text()
    (tmp_path / "report.html").touch()
    write_report(tmp_path, samples.report(tmp_path))
    assert 'href="report.html"' in (tmp_path / "coverage.html").read_text()


def test_numbers_are_shown_as_ranges() -> None:
    assert ranges([3, 1, 2, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([]) == ""


def test_malformed_list_of_reasons_says_where(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('[[reason]]\nfile = "net/tap.c"\nlines = "x"\n')
    with pytest.raises(UsageError, match="reason"):
        load_reasons("10.0", tmp_path / "x.toml")


@pytest.mark.parametrize("base", releases())
def test_own_reasons_can_be_read(base: str) -> None:
    assert all(reason.texts for reason in load_reasons(base))
