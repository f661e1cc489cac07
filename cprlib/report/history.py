"""results/index.html: all runs in a folder, read from their run.json, and how the figures of each case develop."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from cprlib import files
from cprlib.codec import BadValue, load_json
from cprlib.evidence.records import Outcome
from cprlib.report.environment import Environment
from cprlib.report.html import HTML_FILE, render
from cprlib.report.plotting import SOFT, TrendLine, draw_trends, image_address
from cprlib.report.results_folder import CASES, require_results
from cprlib.report.run_json import RUN_FILE, Milliseconds
from cprlib.traffic.figures import PerDirection

INDEX_FILE = "index.html"
RUN_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(-\d+)?")  # cprlib.files.utc_name()
MAX_RUNS = 40  # on the page; older ones are counted
MAX_OTHER_PAGES = 60
OTHER_PAGES = (  # title and pattern of pages of other commands in the same folder
    ("mutants by tests: which test kills which mutant", "prove/latest/mutation.html"),
    ("lines of the series that tests run", "coverage/latest/coverage.html"),
    ("comparison of two QEMUs", "compare*.html"),
    ("comparison of two QEMUs", "*/compare*.html"),
    ("comparison of two QEMUs", "*/*/compare*.html"),
    ("soak", "*/latest/soak*.html"),
)
MIN_RUNS_TO_PLOT = 2
_BAD = (Outcome.FAIL, Outcome.INCONCLUSIVE)


@dataclass(frozen=True, slots=True)
class CaseFigures:
    """The members of a case in run.json that the page shows, as in :class:`cprlib.report.run_json.RunCase`."""

    id: str
    verdict: Outcome
    sent: int | None
    loss: PerDirection
    interruption_ms: Milliseconds
    unexplained: int | None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Policy:
    name: str


@dataclass(frozen=True, slots=True)
class _Qemu:
    version: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class _RunFile:
    """The members of run.json that the page shows; they are the same in all versions of the schema."""

    verdict: Outcome
    policy: _Policy
    environment: Environment
    qemu: tuple[_Qemu, ...]
    cases: tuple[CaseFigures, ...]
    started: str | None = None
    command: str = ""


@dataclass(frozen=True, slots=True)
class SavedRun:
    """One run in the folder.

    :param name: of its results folder.
    :param started: UTC, ``2026-01-31 08:00``.
    :param machine: everything that durations depend on; runs of different machines are not comparable.
    :param qemu: version and first digits of the hash of each QEMU.
    :param problem: why its run.json cannot be read; empty when it can.
    """

    name: str
    outcome: Outcome | None
    started: str = ""
    policy: str = ""
    machine: str = ""
    qemu: str = ""
    commit: str = ""
    command: str = ""
    cases: Mapping[str, CaseFigures] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """The newest runs of a folder, the oldest first.

    :param older: number of older runs that are not shown.
    """

    folder: Path
    runs: tuple[SavedRun, ...]
    older: int = 0

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Cases of all runs: those that ever failed or were inconclusive first, then by name."""
        ids = {name for run in self.runs for name in run.cases}
        bad = {name for run in self.runs for name, case in run.cases.items() if case.verdict in _BAD}
        return tuple(sorted(ids, key=lambda name: (name not in bad, name)))

    @property
    def breaks(self) -> list[int]:
        """Indexes of runs whose machine or QEMU differs from that of the run before."""
        known = [(index, (run.machine, run.qemu)) for index, run in enumerate(self.runs) if not run.problem]
        return [index for (_, before), (index, setup) in itertools.pairwise(known) if setup != before]


def read_history(folder: Path) -> History:
    """Read the newest runs in a folder of runs.

    :raises UsageError: there is no such folder.
    """
    require_results(folder, "show the history of", "give the --out of your runs")
    names = sorted(path.name for path in folder.iterdir() if RUN_NAME.fullmatch(path.name) and _has_report(path))
    shown = names[-MAX_RUNS:]
    return History(folder, tuple(_read_run(folder / name) for name in shown), len(names) - len(shown))


def _has_report(folder: Path) -> bool:
    """Whether a run has a run.json, also when it is another user's, who alone can read it."""
    try:
        return (folder / RUN_FILE).is_file()
    except PermissionError:
        return True


def _read_run(folder: Path) -> SavedRun:
    try:
        run = load_json(_RunFile, (folder / RUN_FILE).read_bytes())
    except (OSError, BadValue) as error:
        return SavedRun(folder.name, None, problem=f"{RUN_FILE} cannot be read: {error}")
    where = run.environment
    backend = " ".join(filter(None, (where.mode, where.engine)))
    return SavedRun(
        folder.name,
        run.verdict,
        started=(run.started or "")[:16].replace("T", " "),
        policy=run.policy.name,
        machine=", ".join(filter(None, (backend, where.machine))),
        qemu="; ".join(dict.fromkeys(f"{qemu.version or '?'} {qemu.sha256[:8]}".strip() for qemu in run.qemu)),
        commit=where.commit,
        command=run.command,
        cases={case.id: case for case in run.cases},
    )


def write_index(folder: Path) -> Path:
    """Write ``index.html`` into a folder of runs, whole or not at all.

    :raises UsageError: there is no such folder.
    :raises EnvironmentFailure: it cannot be written.
    """
    path = folder / INDEX_FILE
    files.write_text(path, render_history(read_history(folder)), mode=0o600)
    return path


def render_history(history: History) -> str:
    return render(
        "history.html",
        history=history,
        newest_first=list(reversed(history.runs)),
        cases=[_case_history(history, name) for name in history.case_ids],
        pages=list(_other_pages(history.folder)),
        report_file=HTML_FILE,
    )


def _other_pages(folder: Path) -> Iterator[tuple[str, str]]:
    """Title and address, relative to the folder, of each page of another command."""
    found: dict[Path, tuple[str, str]] = {}  # by the page itself, which links reach on several paths
    top = folder.resolve()
    for title, pattern in OTHER_PAGES:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
                page = path.resolve()
                linked = path.relative_to(folder)  # outside of the folder when a part of the path is a link to there
                found.setdefault(page, (title, str(page.relative_to(top) if page.is_relative_to(top) else linked)))
    yield from itertools.islice(found.values(), MAX_OTHER_PAGES)


def _case_history(history: History, name: str) -> dict[str, object]:
    """One case on the page: its newest figures, and the run that they are of."""
    figures = [run.cases.get(name) for run in history.runs]
    known = [(run.name, one) for run, one in zip(history.runs, figures, strict=True) if one is not None]
    run, newest = known[-1]
    measured = [one for _, one in known if one.sent is not None or one.seconds is not None]
    has_folder = (history.folder / run / CASES / name).is_dir()
    return {
        "id": name,
        "newest": newest,
        "run": run,
        "picture": image_address(draw_case(figures, history.breaks)) if len(measured) >= MIN_RUNS_TO_PLOT else None,
        "passed": sum(one.verdict == Outcome.PASS for _, one in known),
        "ran": len(known),
        "evidence": f"{quote(run)}/{CASES}/{quote(name)}/" if has_folder else "",
    }


def draw_case(figures: Sequence[CaseFigures | None], breaks: Sequence[int]) -> str:
    """Interruption, loss and duration of one case from run to run, as SVG.

    :param figures: in each run, the oldest first; None for a run without the case.
    :param breaks: see :attr:`History.breaks`.
    """
    forward = [one.interruption_ms.forward if one else None for one in figures]
    back = [one.interruption_ms.return_ if one else None for one in figures]
    panels = (
        ("interruption, ms", (TrendLine(back, "s", "--", SOFT), TrendLine(forward))),
        ("packets lost", (TrendLine([one.loss.total if one else None for one in figures]),)),
        ("duration, s", (TrendLine([one.seconds if one else None for one in figures]),)),
    )
    return draw_trends(panels, [one is not None and one.verdict in _BAD for one in figures], breaks)
