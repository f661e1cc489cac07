"""soak.html: one page that works offline, prints, and reads without colour; kept cases link to their reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cprlib import files
from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.soak.plots import draw_soak
from cprlib.campaign.soak.record import CaseRow
from cprlib.campaign.soak.resources import RESOURCES, Resource
from cprlib.campaign.soak.result import SoakResult, resource_finding, trend_words
from cprlib.campaign.soak.trend import LEAST_SAMPLES, SIGNIFICANCE, Trend
from cprlib.evidence.terms import Outcome
from cprlib.report.formatting import utc
from cprlib.report.html import HTML_FILE, template_engine
from cprlib.report.plotting import image_address
from cprlib.verdict.findings import Finding

PAGE_FILE = "soak.html"
OUTCOMES = {
    CellOutcome.DETECTED: Outcome.FAIL,
    CellOutcome.PASSED: Outcome.PASS,
    CellOutcome.INCONCLUSIVE: Outcome.INCONCLUSIVE,
    CellOutcome.SKIPPED: Outcome.SKIP,
    CellOutcome.CRASHED: Outcome.INCONCLUSIVE,
}
WORDS = {CellOutcome.DETECTED: "failed"}


@dataclass(frozen=True, slots=True)
class CaseView:
    """A case as the page shows it.

    :param link: of its evidence; empty when that is not kept.
    """

    row: CaseRow
    outcome: Outcome
    word: str
    link: str


@dataclass(frozen=True, slots=True)
class ResourceView:
    """A resource with its trend and what that says."""

    resource: Resource
    trend: Trend
    finding: Finding

    @property
    def words(self) -> str:
        """The verdict of the trend in a few words."""
        return trend_words(self.trend)


def render(result: SoakResult) -> str:
    """The page."""
    cases = [_case(result, row) for row in result.past.cases]
    resources = [
        ResourceView(item, result.trends[item.name], resource_finding(item, result.trends[item.name]))
        for item in RESOURCES
    ]
    template = template_engine(Path(__file__).parent / "templates").get_template("soak.html")
    return template.render(
        result=result,
        resources=resources,
        loud=[view for view in cases if view.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE) or view.row.left],
        tests=_tests(cases),
        picture=image_address(draw_soak(result)) if result.past.samples else None,
        Outcome=Outcome,
        least=LEAST_SAMPLES,
        significance=SIGNIFICANCE,
        started=utc(result.wanted.started_ns),
        finished=utc(result.finished_ns),
    )


def write_soak_html(result: SoakResult) -> Path:
    """Write soak.html into the soak's folder, whole or not at all.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    path = result.folder / PAGE_FILE
    files.write_text(path, render(result), mode=0o600)
    return path


def _case(result: SoakResult, row: CaseRow) -> CaseView:
    outcome = Outcome.FAIL if row.left else OUTCOMES[row.outcome]
    folder = result.folder / row.folder
    page = HTML_FILE if (folder / HTML_FILE).exists() else ""
    link = f"{quote(row.folder)}/{page}" if folder.is_dir() else ""
    return CaseView(row, outcome, WORDS.get(row.outcome, row.outcome.value), link)


def _tests(cases: list[CaseView]) -> list[tuple[str, dict[Outcome, int]]]:
    """How often each test was drawn, and what came of it."""
    found: dict[str, dict[Outcome, int]] = {}
    for view in cases:
        counts = found.setdefault(view.row.test, dict.fromkeys(Outcome, 0))
        counts[view.outcome] += 1
    return sorted(found.items())
