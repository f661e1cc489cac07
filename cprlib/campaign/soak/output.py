"""The report of a soak: soak.json for programs, soak.html and text for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cprlib.campaign.outcome import VERDICT_OF, WITHOUT_ALARM
from cprlib.campaign.page import TEMPLATES, evidence_link, picture, write_document, write_page
from cprlib.campaign.soak.resources import RESOURCES, Resource
from cprlib.campaign.soak.result import (
    SOAK_FILE,
    SOAK_SCHEMA,
    ResourceSample,
    SoakCase,
    SoakResult,
    SoakSession,
    resource_finding,
)
from cprlib.campaign.soak.trend import FEWEST_SAMPLES, SIGNIFICANCE, Trend, warm_up
from cprlib.codec import dump_json
from cprlib.evidence.records import Outcome
from cprlib.report.environment import Environment
from cprlib.report.formatting import one_line, utc, wrap
from cprlib.report.html import render
from cprlib.report.plotting import DOT, INK, LOST, SOFT
from cprlib.report.schema import SchemaFile
from cprlib.verdict.findings import Finding
from cprlib.words import first_of

PAGE_FILE = "soak.html"
MOST_REASONS = 12
COLUMNS = 2  # of pictures


@dataclass(frozen=True, slots=True)
class SoakDocument:
    """What soak.json holds. It is written at each sample; while a soak runs, verdicts, reasons, resources,
    cases, their counts and kept folders are empty.

    :param schema: of this file, :data:`cprlib.campaign.soak.result.SOAK_SCHEMA`.
    :param state: ``running``, ``interrupted`` or ``ended``.
    :param engine: of the lab; None when run natively.
    :param command: of the last session.
    :param seconds: that all sessions ran.
    :param counts: number of cases by outcome; one that left a process behind failed.
    :param kept: folders of cases that did not pass.
    """

    schema: Literal[2]
    state: str
    verdict: Outcome | None
    exit_status: int | None
    verdict_of_cases: Outcome | None
    verdict_of_resources: Outcome | None
    reasons: tuple[Finding, ...]
    seed: int
    engine: str | None
    policy: str
    command: str
    started: str | None
    finished: str | None
    seconds: float
    environment: Environment
    counts: dict[str, int]
    resources: tuple[Trend, ...]
    kept: tuple[str, ...]
    sessions: tuple[SoakSession, ...]
    samples: tuple[ResourceSample, ...]
    cases: tuple[SoakCase, ...]


SOAK_SCHEMA_FILE = SchemaFile("soak", SOAK_SCHEMA, SoakDocument)


def soak_document(result: SoakResult) -> SoakDocument:
    ended = result.state != "running"
    history = result.history
    return SoakDocument(
        schema=SOAK_SCHEMA,
        state=result.state,
        verdict=result.verdict.outcome if ended else None,
        exit_status=int(result.exit_status) if ended else None,
        verdict_of_cases=result.cases_verdict.outcome if ended else None,
        verdict_of_resources=result.resources_verdict.outcome if ended else None,
        reasons=result.verdict.reasons if ended else (),
        seed=result.request.seed,
        engine=result.request.engine,
        policy=result.request.policy,
        command=result.command,
        started=utc(result.request.started_ns),
        finished=utc(result.finished_ns),
        seconds=round(history.seconds, 3),
        environment=result.environment,
        counts={outcome.value: count for outcome, count in result.counts.items()} if ended else {},
        resources=tuple(result.trends.values()) if ended else (),
        kept=tuple(
            case.folder
            for case in history.cases
            if case.worst not in WITHOUT_ALARM and (result.folder / case.folder).is_dir()
        ),
        sessions=history.sessions,
        samples=history.samples,
        cases=history.cases,
    )


def write_json_file(result: SoakResult) -> Path:
    """Write soak.json into the soak's folder; checked against its schema once the soak is over.

    :raises InstrumentError: the result does not fit the schema.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    document = soak_document(result)
    path = result.folder / SOAK_FILE
    if result.state == "running":
        write_page(path, dump_json(document, indent=None))
    else:
        write_document(result.folder, SOAK_SCHEMA_FILE, document)
    return path


def report_html(result: SoakResult) -> str:
    """The page: verdict, resources with their pictures, cases that did not pass; kept ones link to their reports."""
    cases = result.history.cases
    bad = [case for case in cases if case.worst not in WITHOUT_ALARM]
    tests: dict[str, dict[Outcome, int]] = {}
    for case in cases:
        tests.setdefault(case.test, dict.fromkeys(Outcome, 0))[VERDICT_OF[case.worst]] += 1
    return render(
        "soak.html",
        TEMPLATES,
        result=result,
        bad=[(case, VERDICT_OF[case.worst], evidence_link(result.folder, case.folder)) for case in bad],
        tests=sorted(tests.items()),
        picture=_picture(result) if result.history.samples else None,
        Outcome=Outcome,
        fewest=FEWEST_SAMPLES,
        significance=SIGNIFICANCE,
        most_reasons=MOST_REASONS,
    )


def _picture(result: SoakResult) -> str:
    """All resources: hollow dots are warm-up, the line is the slope found, dotted lines begin a session."""
    layout = {"sharex": True, "gridspec_kw": {"hspace": 0.42, "wspace": 0.16}}
    return picture(RESOURCES, COLUMNS, 1.75, lambda axis, resource: _draw(axis, result, resource), **layout)


def _draw(axis: Any, result: SoakResult, resource: Resource) -> None:
    found = result.trends[resource.name]
    grows = found.verdict == Outcome.FAIL
    every: list[float] = []
    for series in result.series(resource):
        skipped = warm_up(len(series))
        minutes, values = [at / 60 for at, _ in series], [value for _, value in series]
        every += values
        axis.plot(minutes, values, color=SOFT, lw=0.6, zorder=1)
        axis.scatter(minutes[:skipped], values[:skipped], s=11, facecolors="white", edgecolors=SOFT, lw=0.8, zorder=2)
        axis.scatter(minutes[skipped:], values[skipped:], s=11, color=DOT, lw=0, zorder=3)
        if found.per_hour is not None and len(values) - skipped > 1:
            _draw_slope(axis, minutes[skipped:], values[skipped:], found.per_hour / 60, LOST if grows else INK)
    starts: dict[int, float] = {}
    for sample in result.history.samples:
        starts.setdefault(sample.session, sample.at_s)
    for session, start in starts.items():
        if session:
            axis.axvline(start / 60, color=SOFT, lw=0.8, ls=(0, (1, 2)))
    low, high = (min(every), max(every)) if every else (0.0, 1.0)
    room = max((high - low) * 0.15, found.limit * 0.1, 1.0 if resource.unit != "MiB" else 0.0)
    axis.set_ylim(low - room, high + room)
    axis.set_title(f"{resource.title}: {found.words}", loc="left", fontsize=8.5, weight="bold" if grows else "normal")
    axis.set_ylabel(resource.unit if resource.unit == "MiB" else "")
    axis.yaxis.get_major_locator().set_params(integer=resource.unit != "MiB")
    if axis.get_subplotspec().is_last_row():
        axis.set_xlabel("minutes of work")
    axis.ticklabel_format(axis="y", useOffset=False)


def _draw_slope(axis: Any, minutes: list[float], values: list[float], per_minute: float, color: str) -> None:
    """The slope through the median of the samples."""
    middle = sorted(value - per_minute * at for at, value in zip(minutes, values, strict=True))[len(values) // 2]
    ends = [minutes[0], minutes[-1]]
    axis.plot(ends, [middle + per_minute * at for at in ends], color=color, lw=1.3, zorder=4)


def report_text(result: SoakResult) -> str:
    """For the terminal: each resource, why cases did not pass, and the verdict."""
    width = max(len(resource.name) for resource in RESOURCES)
    lines = []
    for finding in map(resource_finding, result.trends.values()):
        lines.append(wrap(f"{finding.outcome:<13} {finding.about:<{width}}  {one_line(finding.text)}", 15 + width))
    lines.append("")
    findings = [item for item in result.cases_verdict.findings if item.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)]
    bad = [wrap(f"{item.outcome:<13} {one_line(item.about)}: {one_line(item.text)}", 14) for item in findings]
    lines += [*first_of(bad, MOST_REASONS, f"{'':13} and {{}} more"), *([""] if bad else [])]
    lines.append(wrap(f"verdict: {result.verdict.outcome.upper()} ({result.sentence})"))
    return "\n".join(lines) + "\n"
