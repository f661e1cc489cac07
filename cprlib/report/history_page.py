"""results/index.html: the history of all runs in a folder, with links to each run's report and its evidence."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from cprlib import files
from cprlib.evidence.case import Outcome
from cprlib.report.formatting import MARK
from cprlib.report.history import Figures, History, SavedRun, read_history
from cprlib.report.history_plot import draw_history
from cprlib.report.html import HTML_FILE, template_engine
from cprlib.report.results_folder import CASES

INDEX_FILE = "index.html"
OTHER_PAGES = (  # beside the runs, when they exist: what they are, and where
    ("variants by tests: does the suite catch each of them?", "prove/latest/matrix.html"),
    ("comparison of two QEMUs", "compare*.html"),
    ("comparison of two QEMUs", "*/compare*.html"),
    ("comparison of two QEMUs", "*/*/compare*.html"),
    ("soak", "*/latest/soak*.html"),
)
MOST_PAGES = 60
FEWEST_TO_DRAW = 2  # one run has no trend


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of one case in the strip of verdicts.

    :param address: of the case in the run's report; empty when it did not take part.
    """

    sign: str
    outcome: str
    address: str
    title: str


@dataclass(frozen=True, slots=True)
class CaseHistory:
    """One case as the page shows it.

    :param last: its newest figures, and ``run`` the folder they are of.
    :param evidence: address of that run's folder of the case; empty when it left none.
    """

    id: str
    cells: tuple[Cell, ...]
    last: Figures
    run: str
    picture: Markup | None
    passed: int
    ran: int
    evidence: str


def write_index(folder: Path) -> Path:
    """Write ``index.html`` into a folder of runs, whole or not at all.

    :raises UsageError: there is no such folder.
    :raises EnvironmentFailure: it cannot be written.
    """
    path = folder / INDEX_FILE
    files.write_text(path, render_history(read_history(folder)), mode=0o600)
    return path


def render_history(history: History) -> str:
    """The page."""
    breaks = changes(history.runs)
    cases = [_case(history, name, breaks) for name in history.case_ids]
    return (
        template_engine()
        .get_template("history.html")
        .render(
            history=history,
            newest_first=list(reversed(history.runs)),
            cases=cases,
            pages=list(other_pages(history.folder)),
            breaks=len(breaks),
            report_file=HTML_FILE,
        )
    )


def changes(runs: tuple[SavedRun, ...]) -> list[int]:
    """Places of runs whose machine or QEMU is not that of the run before."""
    known = [(place, (run.machine, run.qemu)) for place, run in enumerate(runs) if not run.problem]
    return [place for (_, before), (place, kind) in itertools.pairwise(known) if kind != before]


def other_pages(folder: Path) -> Iterator[tuple[str, str]]:
    """What other pages there are: a text and an address relative to the folder."""
    found: dict[Path, str] = {}
    for what, pattern in OTHER_PAGES:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
                found.setdefault(path.resolve(), what)
                if len(found) == MOST_PAGES:
                    break
    for path, what in found.items():
        yield what, str(path.relative_to(folder.resolve()))


def _case(history: History, name: str, breaks: list[int]) -> CaseHistory:
    figures = [run.cases.get(name) for run in history.runs]
    cells = tuple(_cell(run, name) for run in history.runs)
    newest = max(place for place, one in enumerate(figures) if one is not None)
    last = figures[newest]
    assert last is not None
    known = [one for one in figures if one is not None]
    measured = [one for one in known if one.sent is not None or one.seconds is not None]
    picture = None
    if len(measured) >= FEWEST_TO_DRAW:
        svg = draw_history(figures, breaks)
        picture = Markup("data:image/svg+xml;base64,") + base64.b64encode(svg.encode()).decode()
    passed = sum(one.outcome == Outcome.PASS for one in known)
    run = history.runs[newest].name
    there = (history.folder / run / CASES / name).is_dir()
    evidence = f"{quote(run)}/{CASES}/{quote(name)}/" if there else ""
    return CaseHistory(name, cells, last, run, picture, passed, len(known), evidence)


def _cell(run: SavedRun, name: str) -> Cell:
    figures = run.cases.get(name)
    if figures is None:
        return Cell("·", "skip", "", f"{run.name}: not run")
    address = f"{quote(run.name)}/{HTML_FILE}#case-{quote(name)}"
    return Cell(MARK[figures.outcome], figures.outcome.value, address, f"{run.name}: {figures.outcome.value}")
