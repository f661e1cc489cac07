"""The report of coverage: coverage.json for programs, coverage.html, coverage.md and text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cprlib.campaign.coverage.records import COVERAGE_SCHEMA_FILE, CoverageFigures, CoverageReport, LineCoverage
from cprlib.campaign.page import TEMPLATES, indented_table, write_document, write_page
from cprlib.report.formatting import MARK, code_cell, code_span, markdown_row, markdown_text, one_line, wrap
from cprlib.report.html import HTML_FILE, render
from cprlib.report.results_folder import case_id
from cprlib.words import first_of

PAGE_FILE, SUMMARY_FILE = "coverage.html", "coverage.md"
SUMMARY_LINES = 20  # that do not run, in the text and in coverage.md


def write_report(folder: Path, report: CoverageReport) -> None:
    """Write coverage.html, coverage.md and coverage.json into the results folder.

    :raises InstrumentError: the report does not fit the schema.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    write_page(folder / PAGE_FILE, report_html(report, HTML_FILE if (folder / HTML_FILE).exists() else ""))
    write_page(folder / SUMMARY_FILE, report_markdown(report))
    write_document(folder, COVERAGE_SCHEMA_FILE, report)


def report_html(report: CoverageReport, run_page: str = "") -> str:
    """The page: a table of the patches, and the lines of each with the tests that run them.

    :param run_page: file of the report of the run; empty when nothing was run.
    """
    numbers = {test: number for number, test in enumerate(report.tests, 1)}
    return render(
        "coverage.html",
        TEMPLATES,
        report=report,
        headings=HEADINGS,
        rows=_rows(report),
        numbers=lambda tests: ranges(numbers[test] for test in tests),
        case_id=case_id,
        run_page=run_page,
    )


def ranges(numbers: Iterable[int]) -> str:
    """``"1-3, 7"`` for 1, 2, 3 and 7."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and groups[-1][-1] == number - 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)


HEADINGS = ("patch", "lines", "run", "%", "branches", "taken", "no reason", "subject")


def _rows(report: CoverageReport) -> list[tuple[str, ...]]:
    rows = []
    for patch in report.patches:
        open_lines = sum(line.is_open for line in patch.lines)
        rows.append((f"{patch.number:04}", *_cells(patch.figures), str(open_lines), one_line(patch.subject)))
    return [*rows, ("all", *_cells(report.figures), str(len(report.open_lines)), "")]


def _cells(figures: CoverageFigures) -> tuple[str, ...]:
    counts = (figures.branches, figures.branches_taken)
    return (str(figures.lines), str(figures.lines_run), f"{figures.percent:.1f}", *map(str, counts))


def report_markdown(report: CoverageReport) -> str:
    """A table of the patches, the lines that do not run, and their reasons."""
    lines = [f"**{MARK[report.verdict]} {report.verdict.upper()}**: {report.sentence}", ""]
    lines += [markdown_row(*HEADINGS), "|---|--:|--:|--:|--:|--:|--:|---|"]
    lines += [markdown_row(*map(markdown_text, row)) for row in _rows(report)]
    if report.open_lines:
        lines += ["", "Lines that no test runs, without a reason:", ""]
        lines += [f"- {code_span(text)}" for text in _shown(report.open_lines)]
    if report.explained_lines:
        lines += ["", "| line that no test runs | | reason |", "|---|---|---|"]
        for line in report.explained_lines:
            reason = markdown_text(line.reason, 300)
            lines.append(markdown_row(f"{line.file}:{line.line}", code_cell(line.text.strip()), reason))
    return "\n".join([*lines, "", *_notes(report)]).rstrip() + "\n"


def report_text(report: CoverageReport) -> str:
    """For the terminal: a table of the patches, the lines without a reason, and the verdict."""
    lines = indented_table(HEADINGS, _rows(report))
    if report.open_lines:
        lines += [
            "",
            "lines that no test runs, without a reason:",
            *(f"  {text}" for text in _shown(report.open_lines)),
        ]
    notes = [wrap(f"note: {note}", 6) for note in _notes(report)]
    return "\n".join([*lines, "", *notes, f"verdict: {report.verdict.upper()} ({report.sentence})"]) + "\n"


def _shown(lines: Sequence[LineCoverage]) -> list[str]:
    return first_of([f"{line.file}:{line.line}: {one_line(line.text.strip())}" for line in lines], SUMMARY_LINES)


def _notes(report: CoverageReport) -> list[str]:
    notes = []
    if report.not_passed:
        ids = ", ".join(case_id(test) for test in report.not_passed)
        notes.append(f"not passed on this build, which is slower: {ids}; the lines that they ran count")
    if report.unused_reasons:
        notes.append(f"reasons that apply to no line: {'; '.join(map(one_line, report.unused_reasons))}")
    return notes
