"""From the counters of the cases to the report: lines by patch, the tests that run each, reasons for the others."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

from cprlib.build.coverage import CoverageBuild, SourceLine
from cprlib.build.series import Series, patch_number, subject_of
from cprlib.campaign.coverage.collect import CaseCounts, Place, merged
from cprlib.campaign.coverage.reasons import Reason, explain
from cprlib.campaign.coverage.records import CoverageReport, LineCoverage, PatchCoverage
from cprlib.report.environment import Environment


def make_report(
    base: str,
    series: Series,
    build: CoverageBuild,
    cases: Sequence[CaseCounts],
    reasons: Sequence[Reason],
    *,
    environment: Environment,
    command: str = "",
    started: str = "",
    finished: str = "",
) -> CoverageReport:
    """The report.

    :param build: on which the cases ran.
    :param cases: at least one; every case knows all executable lines.
    """
    explained = explain(reasons, build.sources)
    covered = _covered_lines(build.lines, cases, explained)
    patches = tuple(
        PatchCoverage(
            patch_number(patch),
            patch.name,
            subject_of(patch),
            tuple(line for source, line in covered if source.patch == patch.name),
        )
        for patch in series.patches
    )
    applied = {reason for _, line in covered for reason in reasons if line.reason == reason.reason and not line.count}
    return CoverageReport(
        base=base,
        series=series.digest,
        patches=patches,
        tests=tuple(sorted({case.test for case in cases})),
        not_passed=tuple(sorted({case.test for case in cases if not case.passed})),
        unused_reasons=tuple(f"{reason.file}: {reason.texts[0]}" for reason in reasons if reason not in applied),
        environment=environment,
        command=command,
        started=started,
        finished=finished,
    )


def _covered_lines(
    lines: Sequence[SourceLine], cases: Sequence[CaseCounts], explained: Mapping[Place, Reason]
) -> list[tuple[SourceLine, LineCoverage]]:
    """The executable ones of the lines."""
    counts = merged(cases)
    tests: dict[Place, set[str]] = collections.defaultdict(set)
    for case in cases:
        for place, found in case.lines.items():
            if found.count:
                tests[place].add(case.test)
    covered = []
    for source in lines:
        place = (source.file, source.line)
        if place not in counts:
            continue
        count = counts[place].count
        reason = "" if count or place not in explained else explained[place].reason
        covered.append(
            (
                source,
                LineCoverage(
                    source.file,
                    source.line,
                    source.text,
                    count,
                    counts[place].branches,
                    tuple(sorted(tests[place])),
                    reason,
                ),
            )
        )
    return covered
