"""A run as plain text: a table for the terminal, and twenty lines of Markdown for a pull request or a mailing list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cprlib.errors import SkipWord
from cprlib.evidence.case import OTHER_SKIP, CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.report.finding_groups import FindingGroup
from cprlib.report.formatting import (
    MARK,
    MAX_COMMAND,
    by_direction,
    checks_passed,
    command_span,
    duration,
    has_figures,
    markdown_row,
    markdown_text,
    ms_range,
    number,
    one_line,
    paired_descriptors,
    text_table,
    utc,
    wrap,
)
from cprlib.report.patch_results import PatchResult, lacks_feature
from cprlib.report.run_report import RunReport, answers
from cprlib.verdict.findings import worst_first
from cprlib.verdict.traffic_rules import unexplained_packets
from cprlib.words import counted, listed

MARKDOWN_LINES = 20
_NAMED_CASES = 4  # cases of a cause, and causes beside it
_MARKDOWN_GROUPS = 3
MAX_REASON = 80  # characters of a skip in the table of cases
MAX_EXAMPLE = 700  # characters of a finding: QEMU's own words may be at its end

Figure = tuple[str, Callable[[CaseEvidence], str]]
"""A column: its heading, and its text for a case. Pairs are forward / return."""

_COUNTS: tuple[Figure, ...] = (
    ("lost", lambda case: by_direction(case.loss)),
    ("dup", lambda case: by_direction(case.duplicates)),
    ("reord", lambda case: by_direction(case.reordered)),
    ("interruption ms", lambda case: " / ".join(map(ms_range, (case.interruption.forward, case.interruption.return_)))),
)
_SENT: Figure = ("sent", lambda case: number(case.sent))
_UNEXPLAINED: Figure = ("unexplained", lambda case: number(unexplained_packets(case)))
_TABLE_FIGURES: tuple[Figure, ...] = (
    ("mechanism", lambda case: case.mechanism.value),
    _SENT,
    *_COUNTS,
    ("budget", lambda case: duration(case.budget.longest_pause_ms if case.budget else None)),
    ("fds", paired_descriptors),
    _UNEXPLAINED,
)
_MARKDOWN_FIGURES: tuple[Figure, ...] = (
    _SENT,
    *((f"{heading} fwd / ret", text) for heading, text in _COUNTS),
    ("fds paired", paired_descriptors),
    _UNEXPLAINED,
)


def result_table(report: RunReport) -> str:
    """One line per case, the causes of what did not pass, patches of the series, three answers, and the verdict.

    Pairs are forward / return. Cases that were skipped for the same reason share a line.
    """
    lines = [*_case_lines(report), ""]
    for index, group in enumerate(report.groups, 1):
        lines += _group_lines(index, group, report.evidence_folder(group.example))
    lines += [
        wrap(f"  repeated: {one_line(case.evidence.id)}: at first inconclusive: {one_line(text)}")
        for case in report.cases
        for text in case.evidence.first_try
    ]
    if not lacks_feature(report.cases):  # what is missing is not known to be good, also in a run that fails
        lines += [wrap(f"  run: {one_line(reason)}") for reason in report.own_reasons]
    lines += map(wrap, _series_lines(report.patches))
    lines += [wrap(f"{question} {one_line(answer, 600)}") for question, answer in answers(report).lines]
    lines.append(
        f"verdict: {report.verdict.outcome.upper()} ({report.sentence}; policy {one_line(report.policy.name)})"
    )
    return "\n".join(lines) + "\n"


def _case_lines(report: RunReport) -> list[str]:
    """The table of cases; a case without figures of traffic has the number of its checks in their place."""
    rows = [("verdict", "case", *(heading for heading, _ in _TABLE_FIGURES))]
    texts: dict[int, str] = {}  # of rows that have no figures
    for case in report.cases:
        evidence = case.evidence
        if case.outcome == Outcome.SKIP:
            continue
        if has_figures(evidence):
            figures = [text(evidence) for _, text in _TABLE_FIGURES]
        else:
            texts[len(rows)] = one_line(checks_passed(evidence), MAX_REASON)
            figures = [evidence.mechanism.value, *[""] * (len(_TABLE_FIGURES) - 1)]
        rows.append((case.outcome.value, one_line(evidence.id), *figures))
    lines = text_table(rows, range(3))
    for index, text in texts.items():
        lines[index + 1] += f"  {text}"  # below the line of dashes
    skipped = [case.evidence for case in report.cases if case.outcome == Outcome.SKIP]
    for word in dict.fromkeys(case.skip_word for case in skipped):
        own = [case for case in skipped if case.skip_word == word]
        text = own[0].id if len(own) == 1 else f"{len(own)} cases"
        reason = (
            f"{word} (below)" if word == SkipWord.NO_CPR and lacks_feature(report.cases) else one_line(own[0].skip_text)
        )
        lines.append(wrap(f"{Outcome.SKIP.value.ljust(lines[1].index(' '))}  {text}: {reason}"))
    return lines


def _group_lines(index: int, group: FindingGroup, folder: str) -> list[str]:
    """A cause: its cases, one finding in full, its evidence, and one command."""
    example = "" if group.findings == 1 else "for example: "
    lines = [
        wrap(f"{index}. {group.outcome}: {one_line(group.heading)}"),
        wrap(f"    {example}{one_line(group.text, MAX_EXAMPLE)}"),
        wrap(f"    cases: {one_line(listed(group.cases, _NAMED_CASES, ', '))}"),
    ]
    if group.also:
        also = "; ".join(f"{one_line(each.title)} ({len(each.cases)})" for each in group.also[:_NAMED_CASES])
        lines.append(wrap(f"    also in these cases: {also}{'; ...' if group.also[_NAMED_CASES:] else ''}"))
    if folder:
        lines.append(f"    evidence: {one_line(folder)}/")
    if group.command:
        lines.append(f"    run again: {one_line(group.command, MAX_COMMAND)}")
    return [*lines, ""]


def _series_lines(patches: Sequence[PatchResult]) -> Iterator[str]:
    """The patches of the series by verdict: ``patches, fail: 3 vhost-reset (12 of 17)``, with their properties."""
    for verdict in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS):  # the others are in the answers
        found = [patch for patch in patches if patch.verdict == verdict]
        if found:
            names = ", ".join(f"{patch.number} {patch.name}{_share(patch)}" for patch in found)
            yield f"patches, {verdict}: {names}"


def _share(patch: PatchResult) -> str:
    """How many of a patch's properties have its verdict; empty when all do."""
    count = patch.count(patch.verdict)
    return "" if count == len(patch.properties) else f" ({count} of {len(patch.properties)})"


def markdown_summary(report: RunReport) -> str:
    """Verdict, answers, causes, series and table, the worst first, in at most 20 lines: for the summary of a CI job."""
    head = [f"**{MARK[report.verdict.outcome]} {report.verdict.outcome.upper()}**: {report.sentence}", ""]
    head += [f"- **{question}** {markdown_text(answer, 500)}" for question, answer in answers(report).lines]
    head += ["", *(_markdown_group(index, group) for index, group in enumerate(report.groups[:_MARKDOWN_GROUPS], 1))]
    if report.groups[_MARKDOWN_GROUPS:]:
        head[-1] += f" And {counted(len(report.groups) - _MARKDOWN_GROUPS, 'other cause')}: report.html."
    head += [""] if report.groups else []
    if any(patch.verdict for patch in report.patches):
        head += [f"Series: {'; '.join(markdown_text(line, 500) for line in _series_lines(report.patches))}", ""]
    foot = ["", *_run_facts(report)]
    cases = worst_first(report.cases)
    if lacks_feature(report.cases):
        cases = [case for case in cases if case.outcome != Outcome.SKIP]
    room = MARKDOWN_LINES - len(head) - len(foot) - 2
    shown = cases if len(cases) <= room else cases[: room - 1]
    table = [
        markdown_row("", "case", *(heading for heading, _ in _MARKDOWN_FIGURES)),
        f"|---|---|{'--:|' * len(_MARKDOWN_FIGURES)}",
        *(
            markdown_row(
                f"{MARK[case.outcome]} {case.outcome}",
                markdown_text(case.evidence.id),
                *_markdown_figures(case.evidence),
            )
            for case in shown
        ),
    ]
    if len(shown) < len(cases):
        table.append(markdown_row("", f"and {len(cases) - len(shown)} more", *[""] * len(_MARKDOWN_FIGURES)))
    return "\n".join([*head, *table, *foot]) + "\n"


def _markdown_figures(case: CaseEvidence) -> list[str]:
    if has_figures(case):
        return [text(case) for _, text in _MARKDOWN_FIGURES]
    text = markdown_text(case.skip_word or OTHER_SKIP) if case.skipped else checks_passed(case)
    return [text, *[""] * (len(_MARKDOWN_FIGURES) - 1)]


def _markdown_group(index: int, group: FindingGroup) -> str:
    command = f"; run again: {command_span(group.command)}" if group.command else ""
    return f"{index}. {MARK[group.outcome]} **{markdown_text(group.heading)}**: {markdown_text(group.text)}{command}"


def _run_facts(report: RunReport) -> list[str]:
    environment = report.environment
    qemus = ", ".join(f"{qemu.version or qemu.path} ({qemu.sha256[:12] or 'no hash'})" for qemu in report.qemus)
    backend = " ".join(filter(None, (environment.mode, environment.engine))) or "unknown backend"
    when = (utc(report.started_ns) or "")[:16].replace("T", " ")
    lines = [
        f"QEMU {markdown_text(qemus) or 'unknown'}; policy {markdown_text(report.policy.name)}; "
        + f"cprlib {environment.cprlib}{f' at {environment.commit}' if environment.commit else ''}",
        f"{backend}; {markdown_text(environment.machine)}" + (f"; {when} UTC" if when else ""),
    ]
    if report.command:
        lines.append(f"Command: {command_span(report.command)}")
    return lines
