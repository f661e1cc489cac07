"""The report of a mutation run: mutation.json for programs, mutation.html, mutation.md and text for people."""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.campaign.mutation.document import MUTATION_SCHEMA_FILE, report_document
from cprlib.campaign.mutation.score import WORST_FIRST, BuildResults, MutationReport, Result
from cprlib.campaign.outcome import JobOutcome
from cprlib.campaign.page import evidence_link, render, wrap, write_json, write_page
from cprlib.evidence.records import Outcome
from cprlib.report.formatting import MARK, one_line

JSON_FILE, PAGE_FILE, SUMMARY_FILE = "mutation.json", "mutation.html", "mutation.md"
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


def write_report(report: MutationReport) -> None:
    """Write mutation.html, mutation.md and mutation.json into the session's folder.

    :raises InstrumentError: the report does not fit the schema.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    write_page(report.folder / PAGE_FILE, report_html(report))
    write_page(report.folder / SUMMARY_FILE, report_markdown(report))
    write_json(report.folder, MUTATION_SCHEMA_FILE, report_document(report))


def sign(item: BuildResults, test: str) -> str:
    """A result in one character; ``!`` behind it when it is not as it must be; empty when it did not run."""
    mutant, must = item.build.mutant, item.build.must_kill(test)
    result = item.results.get(test)
    if result is None:
        return WRONG if must else ""
    shown, failed = SIGN[result.judged.outcome], result.judged.outcome == JobOutcome.FAILED
    if mutant is None:
        return shown + (WRONG if failed else "")
    if must and result.judged.matches(mutant.message):
        return "K"
    return ("k" if failed else shown) + (WRONG if must else "")


# --- mutation.html ---


@dataclass(frozen=True, slots=True)
class ResultView:
    """A result as the page shows it.

    :param sign: see :func:`sign`.
    :param kind: class of its style.
    :param link: of its evidence; empty when it did not run.
    """

    test: str
    sign: str
    kind: str
    title: str
    link: str
    result: Result | None
    must: bool


@dataclass(frozen=True, slots=True)
class BuildView:
    """A build with its results in the order of the columns."""

    item: BuildResults
    results: tuple[ResultView, ...]

    @property
    def anchor(self) -> str:
        """Id of its section."""
        return self.item.build.folder.replace("/", "-")

    @property
    def listed(self) -> tuple[ResultView, ...]:
        """Results worth a line: tests that did not pass, and those that must kill the mutant."""
        return tuple(
            view
            for view in self.results
            if view.must or (view.result is not None and view.result.judged.outcome != JobOutcome.PASSED)
        )


def report_html(report: MutationReport) -> str:
    """The page: a grid of builds by tests, and a section for each build."""
    builds = [BuildView(item, tuple(_view(report, item, test) for test in report.tests)) for item in report.builds]
    return render("mutation.html", report=report, builds=builds, legend=LEGEND)


def _view(report: MutationReport, item: BuildResults, test: str) -> ResultView:
    result, must, shown = item.results.get(test), item.build.must_kill(test), sign(item, test)
    if result is None:
        kind = "bad" if test in item.planned else "none"
        return ResultView(test, shown, kind, f"{test}: not run", "", None, must)
    took = f" after {result.judged.seconds:.1f} s" if result.judged.seconds is not None else ""
    title = f"{test}: {result.judged.outcome}{took}{'; this test must kill it' if must else ''}"
    kind = "bad" if WRONG in shown else result.judged.outcome.value
    return ResultView(test, shown, kind, title, evidence_link(report.folder, result.folder), result, must)


# --- mutation.md ---


def report_markdown(report: MutationReport) -> str:
    """At most forty lines for a pull request or a mailing list: verdict, a line for each build, the reasons."""
    builds = sorted(report.builds, key=lambda item: WORST_FIRST.index(item.outcome))
    head = [f"**{MARK[report.outcome]} {report.outcome.upper()}**: {report.sentence}", ""]
    wrong = [(item, reason) for item in builds for reason in item.reasons]
    reasons = [f"- {_markdown(item.build.name)}: {_markdown(reason.text)}" for item, reason in wrong[:8]]
    if len(wrong) > len(reasons):
        reasons.append(f"- and {len(wrong) - len(reasons)} more")
    foot = ["", _facts(report), *([f"Run with `{_markdown(report.command)}`"] if report.command else [])]
    room = SUMMARY_LINES - len(head) - 2 - bool(reasons) - len(reasons) - len(foot)
    shown = builds if len(builds) <= room else builds[: room - 1]
    table = ["| | build | killed by | s | message |", "|---|---|---|--:|---|", *map(_markdown_row, shown)]
    if len(shown) < len(builds):
        table.append(f"| | and {len(builds) - len(shown)} more | | | |")
    return "\n".join([*head, *table, *([""] if reasons else []), *reasons, *foot]) + "\n"


def _markdown_row(item: BuildResults) -> str:
    first = item.failed[0] if item.failed else None
    seconds = f"{first.judged.seconds:.1f}" if first and first.judged.seconds is not None else "-"
    more = f" and {len(item.failed) - 1} more" if item.failed[1:] else ""
    by = f"{_markdown(first.test)}{more}" if first else "-"
    message = _markdown(item.message(first), 120) if first else "-"
    return f"| {MARK[item.outcome]} | {_markdown(item.build.name)} | {by} | {seconds} | {message} |"


def _facts(report: MutationReport) -> str:
    scope = "every test on every build" if report.whole else "on each mutant the tests that must kill it"
    where = f"lab {report.engine}" if report.engine else "native"
    environment = report.environment
    facts = f"QEMU {report.base}, {scope}; {where}; cprlib {environment.cprlib} {environment.commit}".rstrip()
    return facts + (f"; {report.lab_lost} labs died and were replaced" if report.lab_lost else "")


def _markdown(text: str, width: int = 200) -> str:
    """Foreign text for a table: no line ends, no bars, no markup."""
    line = one_line(text, width).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("[", "\\[")


# --- text ---


def report_text(report: MutationReport) -> str:
    """For the terminal: a grid where it is narrow enough, a line or two for each build, and the verdict."""
    width = max((len(item.build.name) for item in report.builds), default=0)
    lines = _grid(report, width) if width + 2 + 3 * len(report.tests) <= WIDEST_GRID else []
    for item in report.builds:
        lines += _text_lines(item)
    lines += ["", *(one_line(f"note: {note}") for note in report.notes)]
    lines.append(f"verdict: {report.outcome.upper()} ({report.sentence})")
    return "\n".join(lines) + "\n"


def _grid(report: MutationReport, width: int) -> list[str]:
    numbers = "".join(f"{number:>3}" for number in range(1, len(report.tests) + 1))
    lines = [f"{'':{width}}  {numbers}".rstrip()]
    for item in report.builds:
        signs = "".join(f"{sign(item, test)[-1:]:>3}" for test in report.tests)
        lines.append(f"{one_line(item.build.name):{width}}  {signs}".rstrip())
    lines.append("")
    lines += [f"{number:>4}  {one_line(test)}" for number, test in enumerate(report.tests, 1)]
    return [*lines, "", wrap("   ".join(f"{key} {meaning}" for key, meaning in LEGEND.items()), 0), ""]


def _text_lines(item: BuildResults) -> list[str]:
    word = {Outcome.PASS: "ok  ", Outcome.FAIL: "FAIL", Outcome.INCONCLUSIVE: "?   "}[item.outcome]
    lines = []
    if item.build.mutant:
        lines.append(f"{word}  {one_line(item.build.name)}: {one_line(item.build.mutant.subject)}")
        for result in item.failed[:1]:
            seconds = f" after {result.judged.seconds:.1f} s" if result.judged.seconds is not None else ""
            message = one_line(item.message(result))
            lines.append(wrap(f"      killed by {one_line(result.test)}{seconds}: {message}", 8))
        others = [result.test for result in item.failed[1:]]
        if others:
            lines.append(wrap(f"      also by {', '.join(map(one_line, others))}", 8))
    else:
        passed = sum(result.judged.outcome == JobOutcome.PASSED for result in item.results.values())
        lines.append(f"{word}  {one_line(item.build.name)}: {passed} of {len(item.planned)} tests passed")
    lines += [wrap(f"      {reason.outcome}: {one_line(reason.text)}", 8) for reason in item.reasons]
    return lines
