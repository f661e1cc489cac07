"""The report of a mutation run: mutation.json for programs, mutation.html, mutation.md and text for people."""

from __future__ import annotations

import functools
from pathlib import Path

from cprlib.build.generated_mutants import GeneratedMutant
from cprlib.campaign.mutation.generated import GeneratedReport, MutantState, PatchScore
from cprlib.campaign.mutation.score import (
    MUTATION_SCHEMA_FILE,
    WORST_FIRST,
    BuildResults,
    Kill,
    MutationReport,
    Result,
    fitting_message,
)
from cprlib.campaign.outcome import WITHOUT_ALARM, JobOutcome
from cprlib.campaign.page import TEMPLATES, evidence_link, indented_table, write_document, write_page
from cprlib.campaign.session import RESULTS
from cprlib.evidence.records import Outcome
from cprlib.report.formatting import MARK, command_span, markdown_row, markdown_text, one_line, wrap
from cprlib.report.html import render
from cprlib.words import counted, first_of

PAGE_FILE, SUMMARY_FILE = "mutation.html", "mutation.md"
SUMMARY_LINES = 40
WIDEST_GRID = 160
SIGN = {
    JobOutcome.FAILED: "f",
    JobOutcome.PASSED: ".",
    JobOutcome.INCONCLUSIVE: "?",
    JobOutcome.SKIPPED: "s",
    JobOutcome.CRASHED: "x",
}
WRONG = "!"
SCOPE = {
    "all": "every test on every build",
    "killed_by": "on each mutant the tests that must kill it",
    "reaching": "on each mutant the tests that reach it, until one kills it",
}
# members of PatchScore, with their headings
COUNTS = {"counted": "mutants", **{state.name.lower(): state.value for state in MutantState}}
SURVIVORS_SHOWN, PATCHES_SHOWN = 8, 20  # at most, in mutation.md
SHORT_TEXT = 6  # characters
PATCH_WIDTH = 40  # columns of a patch's name in the terminal
LEGEND = {
    "K": "killed by a test that must kill it, with the right message",
    "k": "killed",
    "f": "failed",
    ".": "passed",
    "?": "inconclusive",
    "s": "skipped",
    "x": "harness crashed",
    "!": "(after a sign) not as it must be",
}


def write_report(folder: Path, report: MutationReport) -> None:
    """Write mutation.html, mutation.md and mutation.json into the session's folder.

    :raises InstrumentError: the report does not fit the schema.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    write_page(folder / PAGE_FILE, report_html(folder, report))
    write_page(folder / SUMMARY_FILE, report_markdown(report))
    write_document(folder, MUTATION_SCHEMA_FILE, report)


def sign(item: BuildResults, test: str) -> str:
    """A result in one character; ``!`` behind it when it is not as it must be; empty when it did not run.

    On the good build every outcome but passed and skipped leaves the build unproven.
    """
    result = item.result(test)
    if result is None:
        return WRONG if test in item.must_be_killed_by else ""
    shown, failed = SIGN[result.outcome], result.outcome == JobOutcome.FAILED
    if not item.is_mutant:
        return shown + (WRONG if result.outcome not in WITHOUT_ALARM else "")
    if result.must_kill and result.message_matches:
        return "K"
    return ("k" if failed else shown) + (WRONG if result.must_kill else "")


# --- mutation.html ---


def report_html(folder: Path, report: MutationReport) -> str:
    """The page: a grid of builds by tests, and a section for each build.

    :param folder: of the session; links are relative to it.
    """
    builds = [(item, [test.id for test in report.tests if _is_listed(item, test.id)]) for item in report.builds]
    return render(
        "mutation.html",
        TEMPLATES,
        report=report,
        builds=builds,
        legend=LEGEND,
        scope=SCOPE[report.tests_per_mutant],
        counts=COUNTS,
        percent=percent_text,
        sign=sign,
        after=_after,
        fitting_message=fitting_message,
        link=functools.partial(evidence_link, folder),
        results=f"{RESULTS}/generated",
    )


def _is_listed(item: BuildResults, test: str) -> bool:
    """Whether a result is worth a line: a test that did not pass, or one that must kill the mutant."""
    result = item.result(test)
    return test in item.must_be_killed_by or (result is not None and result.outcome != JobOutcome.PASSED)


def _after(result: Result | Kill) -> str:
    return f" after {result.seconds:.1f} s" if result.seconds is not None else ""


# --- mutation.md ---


def report_markdown(report: MutationReport) -> str:
    """At most forty lines for a pull request or a mailing list: verdict, a line for each build, the reasons."""
    builds = sorted(report.builds, key=lambda item: WORST_FIRST.index(item.verdict))
    head = [f"**{MARK[report.verdict]} {report.verdict.upper()}**: {report.sentence}", ""]
    wrong = [
        f"- {markdown_text(item.name)}: {markdown_text(reason.text)}" for item in builds for reason in item.reasons
    ]
    reasons = first_of(wrong, 2 if report.generated else 8, "- and {} more")
    foot = ["", _facts(report), *([f"Run with {command_span(report.command)}"] if report.command else [])]
    room = SUMMARY_LINES - len(head) - 2 - bool(reasons) - len(reasons) - len(foot)
    if report.generated:  # beside one build
        head += _generated_markdown(report.generated, room - 1)
        room = 1
    shown = builds if len(builds) <= room else builds[: room - 1]
    table = ["| | build | killed by | s | message |", "|---|---|---|--:|---|", *map(_markdown_row, shown)]
    if len(shown) < len(builds):
        table.append(f"| | and {len(builds) - len(shown)} more | | | |")
    return "\n".join([*head, *table, *([""] if reasons else []), *reasons, *foot]) + "\n"


def _markdown_row(item: BuildResults) -> str:
    by = seconds = message = "-"
    if item.killed_by:
        first, *more = item.killed_by
        by = markdown_text(first.test) + (f" and {len(more)} more" if more else "")
        seconds = f"{first.seconds:.1f}" if first.seconds is not None else "-"
        message = markdown_text(first.message, 120)
    return markdown_row(MARK[item.verdict], markdown_text(item.name), by, seconds, message)


def _generated_markdown(generated: GeneratedReport, room: int) -> list[str]:
    """The scores and the first survivors.

    :param room: lines that it may have.
    """
    lines = [markdown_row("patch", "score", *COUNTS.values()), f"|---|--:|{'--:|' * len(COUNTS)}"]
    rows = [markdown_row(*map(markdown_text, _score_cells(score))) for score in (*generated.patches, generated.total)]
    lines += first_of(rows[:-1], PATCHES_SHOWN, markdown_row("and {} more", "", *[""] * len(COUNTS)))
    lines.append(rows[-1])
    alive = [
        f"- {result.state}: {result.mutant.place} {markdown_text(changed_text(result.mutant), 100)}"
        for result in generated.alive
    ]
    most = min(SURVIVORS_SHOWN, room - len(lines) - 3)  # an empty line before and after, and how many more there are
    return [*lines, *([""] if alive else []), *first_of(alive, most, "- and {} more"), ""]


def _score_cells(score: PatchScore) -> tuple[str, ...]:
    counts = (str(getattr(score, name)) for name in COUNTS)
    return (score.patch.removesuffix(".patch"), percent_text(score), *counts)


def _facts(report: MutationReport) -> str:
    scope = SCOPE[report.tests_per_mutant]
    where = f"lab {report.engine}" if report.engine else "native"
    environment = report.environment
    facts = f"QEMU {report.base}, {scope}; {where}; cprlib {environment.cprlib} {environment.commit}".rstrip()
    return facts + (f"; replaced {counted(report.lab_lost, 'lab')} that died" if report.lab_lost else "")


# --- text ---


def report_text(report: MutationReport) -> str:
    """For the terminal: a grid where it is narrow enough, a line or two for each build, and the verdict."""
    width = max((len(item.name) for item in report.builds), default=0)
    lines = _grid(report, width) if width + 2 + 3 * len(report.tests) <= WIDEST_GRID else []
    for item in report.builds:
        lines += _text_lines(item)
    if report.generated:
        lines += ["", *_generated_lines(report.generated)]
    lines += ["", *(one_line(f"note: {note}") for note in report.notes)]
    lines.append(f"verdict: {report.verdict.upper()} ({report.sentence})")
    return "\n".join(lines) + "\n"


def _generated_lines(generated: GeneratedReport) -> list[str]:
    headings = ("patch", "score", *COUNTS.values(), "")
    rows = [_score_cells(score) for score in (*generated.patches, generated.total)]
    lines = indented_table(headings, [(one_line(name, PATCH_WIDTH), *cells, "") for name, *cells in rows])
    for result in generated.alive:
        mutant, what = result.mutant, changed_text(result.mutant)
        tests = f" ({result.run} of {result.tests} tests ran)" if result.tests else ""
        lines.append(wrap(f"  {result.state}  {mutant.number} {mutant.place} {one_line(what)}{tests}", 8))
    return lines


def changed_text(mutant: GeneratedMutant) -> str:
    """``negate the condition: a < b -> !(a < b)``; with the line where the text alone says little."""
    text = f"{mutant.rule}: {mutant.original} -> {mutant.mutated}"
    return f"{text} in {mutant.source}" if len(mutant.original) < SHORT_TEXT else text


def percent_text(score: PatchScore) -> str:
    """``92.2 %``; a dash without mutants."""
    return f"{score.percent:.1f} %" if score.percent is not None else "-"


def _grid(report: MutationReport, width: int) -> list[str]:
    numbers = "".join(f"{number:>3}" for number in range(1, len(report.tests) + 1))
    lines = [f"{'':{width}}  {numbers}".rstrip()]
    for item in report.builds:
        signs = "".join(f"{sign(item, test.id):>3}" for test in report.tests)
        lines.append(f"{one_line(item.name):{width}}  {signs}".rstrip())
    lines.append("")
    lines += [f"{number:>4}  {one_line(test.id)}" for number, test in enumerate(report.tests, 1)]
    return [*lines, "", wrap("   ".join(f"{key} {meaning}" for key, meaning in LEGEND.items()), 0), ""]


def _text_lines(item: BuildResults) -> list[str]:
    word = {Outcome.PASS: "ok  ", Outcome.FAIL: "FAIL", Outcome.INCONCLUSIVE: "?   "}[item.verdict]
    lines = []
    if item.is_mutant:
        lines.append(f"{word}  {one_line(item.name)}: {one_line(item.title)}")
        for kill in item.killed_by[:1]:
            lines.append(wrap(f"      killed by {one_line(kill.test)}{_after(kill)}: {one_line(kill.message)}", 8))
        others = [one_line(kill.test) for kill in item.killed_by[1:]]
        if others:
            lines.append(wrap(f"      also by {', '.join(others)}", 8))
    else:
        passed = sum(result.outcome == JobOutcome.PASSED for result in item.results)
        lines.append(f"{word}  {one_line(item.name)}: {passed} of {item.planned} tests passed")
    lines += [wrap(f"      {reason.outcome}: {one_line(reason.text)}", 8) for reason in item.reasons]
    return lines
