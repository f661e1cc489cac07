"""From the counters of the cases to the report: lines by patch, the tests that run each, reasons for the others.

The list of reasons is fixtures/coverage.toml. Each entry names a file, consecutive lines of it as the series leaves
them, and a reason. It applies to those of the lines that the series adds and no test runs; the others say where the
place is. Indentation does not matter, so that an entry serves all bases. An entry may fit several places.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cprlib.build.coverage import CoverageBuild, SourceLine
from cprlib.build.series import Series
from cprlib.campaign.coverage.collect import CaseCounts, LineCounts, Place
from cprlib.campaign.coverage.records import CoverageReport, LineCoverage, PatchCoverage
from cprlib.codec import Name, load_toml
from cprlib.errors import InstrumentError
from cprlib.files import project_folder
from cprlib.report.environment import Environment
from cprlib.report.patch_results import patch_number, subject_of

REASONS_FILE = "coverage.toml"


@dataclass(frozen=True, slots=True)
class UncoveredReason:
    """An entry.

    :param file: relative to QEMU's source.
    :param lines: consecutive lines, one text; some of them are of the series.
    :param reason: a sentence.
    :param bases: for which it holds; empty for all.
    """

    file: Name
    lines: Name
    reason: Name
    bases: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Its lines without indentation."""
        return tuple(line.strip() for line in self.lines.strip().splitlines())


def load_reasons(base: str, path: Path | None = None) -> tuple[UncoveredReason, ...]:
    """The entries for a base.

    :param path: the project's own list when None.
    :raises UsageError: the file is malformed.
    """
    file = path or project_folder() / "fixtures" / REASONS_FILE
    kind = dict[Literal["reason"], tuple[UncoveredReason, ...]]
    entries = load_toml(kind, file, "see the comments in fixtures/coverage.toml").get("reason", ())
    return tuple(entry for entry in entries if not entry.bases or base in entry.bases)


def places_of(reason: UncoveredReason, sources: Mapping[str, Sequence[str]]) -> list[Place]:
    """File and number of every line that an entry fits.

    :param sources: lines of each file, with the series applied.
    """
    texts = [line.strip() for line in sources.get(reason.file, ())]
    count = len(reason.texts)
    starts = [start for start in range(len(texts) - count + 1) if tuple(texts[start : start + count]) == reason.texts]
    return [(reason.file, start + offset + 1) for start in starts for offset in range(count)]


def make_report(
    base: str,
    series: Series,
    build: CoverageBuild,
    cases: Sequence[CaseCounts],
    reasons: Sequence[UncoveredReason],
    *,
    environment: Environment,
    command: str = "",
    started: str = "",
    finished: str = "",
) -> CoverageReport:
    """The report.

    :param build: on which the cases ran.
    :param cases: at least one; every case knows all executable lines.
    :raises InstrumentError: the cases know no line of the series.
    """
    explained = {place: reason for reason in reversed(reasons) for place in places_of(reason, build.sources)}
    covered = _covered_lines(build.lines, cases, explained)
    if not covered:
        raise InstrumentError("measure coverage", "gcov reports no line of the series", "report this as a bug")
    patches = tuple(
        PatchCoverage(
            patch_number(patch),
            patch.name,
            subject_of(patch),
            tuple(line for source, line in covered if source.patch == patch.name),
        )
        for patch in series.patches
    )
    applied = {explained[line.file, line.line] for _, line in covered if line.reason}
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
    lines: Sequence[SourceLine], cases: Sequence[CaseCounts], explained: Mapping[Place, UncoveredReason]
) -> list[tuple[SourceLine, LineCoverage]]:
    counts: dict[Place, LineCounts] = {}
    tests: dict[Place, set[str]] = collections.defaultdict(set)
    for case in cases:
        for place, found in case.lines.items():
            counts[place] = counts[place] + found if place in counts else found
            if found.count:
                tests[place].add(case.test)
    covered = []
    for source in lines:
        place = (source.file, source.line)
        if place not in counts:
            continue
        count, branches = counts[place].count, counts[place].branches
        reason = "" if count or place not in explained else explained[place].reason
        line = LineCoverage(*place, source.text, count, branches, tuple(sorted(tests[place])), reason)
        covered.append((source, line))
    return covered
