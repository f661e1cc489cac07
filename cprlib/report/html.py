"""report.html: one page that needs nothing else, works offline, prints, and reads without colour.

Whatever comes from a guest, a QEMU or a log is escaped by the template engine, and its control characters are replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from cprlib import files
from cprlib.errors import InstrumentError
from cprlib.evidence.case import STARTED_FILE, CaseEvidence, Check, Direction, Event, Outcome, Role
from cprlib.evidence.packets import Packets
from cprlib.report import formatting
from cprlib.report.fault_matrix import fault_matrix
from cprlib.report.formatting import utc
from cprlib.report.gather import EVIDENCE_CHECK
from cprlib.report.plotting import image_address
from cprlib.report.run_report import RunReport, seconds_of
from cprlib.report.timeline import draw
from cprlib.verdict.findings import Finding
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.traffic_rules import longest_pause_ms, unexplained_packets

HTML_FILE = "report.html"
PICTURE_FILE = "timeline.svg"
EVIDENCE_FILES = (  # linked in this order, others of the folder behind them
    "case.json",
    "packets.json",
    "timeline.svg",
    "qmp-source.log",
    "qmp-target.log",
    "console-source.log",
    "console-target.log",
    "station.pcap",
    "reflector.json",
)
WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.SKIP)


@dataclass(frozen=True, slots=True)
class Bar:
    """One duration drawn on the scale of its case.

    :param low, high: in ms.
    :param left, width: in percent of the scale.
    """

    label: str
    note: str
    low: float
    high: float
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class CaseView:
    """A judged case with what the page needs beside its evidence."""

    judged: JudgedCase
    picture: Markup | None
    picture_problem: str
    links: tuple[tuple[str, str], ...]
    bars: tuple[Bar, ...]
    again: str

    @property
    def case(self) -> CaseEvidence:
        """Its evidence."""
        return self.judged.evidence

    @property
    def outcome(self) -> Outcome:
        """Its verdict in one word."""
        return self.judged.outcome

    @property
    def unexplained(self) -> int | None:
        """Missing packets without a hop."""
        return unexplained_packets(self.case)

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return seconds_of(self.case)

    @property
    def role(self) -> str:
        """What the case is for, where that is worth saying."""
        silent = self.case.role == Role.UPDATE or any(check.name == EVIDENCE_CHECK for check in self.case.checks)
        return "" if silent else self.case.role.value

    @property
    def bad(self) -> tuple[Finding, ...]:
        """Why it did not pass; empty when it did."""
        return () if self.outcome == Outcome.PASS else self.judged.verdict.reasons

    @property
    def good(self) -> dict[str, list[str]]:
        """What was found good, by property."""
        found: dict[str, list[str]] = {}
        for finding in self.judged.verdict.findings:
            if finding.outcome == Outcome.PASS:
                found.setdefault(finding.about, []).append(finding.text)
        return found

    @property
    def checks(self) -> list[Check]:
        """Its checks, those that failed first."""
        return sorted(self.case.checks, key=lambda check: WORST_FIRST.index(check.outcome))

    @property
    def events(self) -> list[Event]:
        """Its events in the order of time."""
        return sorted(self.case.timeline, key=lambda event: event.time_ns)

    @property
    def zero_ns(self) -> int | None:
        """The moment that others are told from: STOP, else the first event."""
        stop = self.case.event("STOP")
        return stop.time_ns if stop else min((event.time_ns for event in self.case.timeline), default=None)

    @property
    def directions(self) -> list[Direction]:
        """Directions that the ledger has hops of."""
        return [direction for direction in Direction if any(hop.direction == direction for hop in self.case.ledger)]


def render(report: RunReport) -> str:
    """The page; pictures are also left in the folders of their cases as ``timeline.svg``."""
    order = {outcome: place for place, outcome in enumerate(WORST_FIRST)}
    cases = [_view(report, case) for case in sorted(report.cases, key=lambda case: order[case.outcome])]
    template = template_engine().get_template("report.html")
    return template.render(
        report=report,
        cases=cases,
        faults=fault_matrix(report),
        started=utc(report.started_ns),
        finished=utc(report.finished_ns),
        history=(report.folder.parent / "index.html").exists(),
        Outcome=Outcome,
    )


def write_html(report: RunReport) -> Path:
    """Write ``report.html`` into the results folder, whole or not at all.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    path = report.folder / HTML_FILE
    files.write_text(path, render(report), mode=0o600)
    return path


def template_engine(*folders: Path) -> jinja2.Environment:
    """The template engine: escapes and cleans what it is given, knows the report's figures, style and parts.

    :param folders: of further templates.
    """
    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent / "templates"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    engine.filters.update(
        number=formatting.number,
        percent=formatting.percent,
        duration=formatting.duration,
        ms_range=formatting.ms_range,
        by_direction=formatting.by_direction,
        paired_descriptors=formatting.paired_descriptors,
        mark=lambda outcome: formatting.MARK[outcome],
    )
    return engine


def _finalize(value: object) -> object:
    """Foreign text cleaned before it is escaped; None as a dash."""
    if value is None:
        return formatting.UNKNOWN
    if isinstance(value, str) and not isinstance(value, Markup):
        return formatting.printable(str(value))
    return value


def _view(report: RunReport, judged: JudgedCase) -> CaseView:
    case = judged.evidence
    folder = report.folder / "cases" / case.id
    picture, problem = _picture(folder, case)
    present = {path.name for path in folder.glob("[!.]*") if path.is_file()} - {STARTED_FILE}
    names = [name for name in EVIDENCE_FILES if name in present]
    names += sorted(present.difference(names))
    links = tuple((name, f"cases/{quote(case.id)}/{quote(name)}") for name in names)
    return CaseView(judged, picture, problem, links, tuple(_bars(case)), report.rerun_command(case))


def _picture(folder: Path, case: CaseEvidence) -> tuple[Markup | None, str]:
    """The timeline as the address of an image, or why there is none."""
    try:
        packets = Packets.read(folder)
    except InstrumentError as error:
        return None, f"no timeline: {error.happened}"
    if packets is None or not packets.sent_us:
        return None, ""
    svg = draw(case, packets)
    files.write_text(folder / PICTURE_FILE, svg, mode=0o600)
    return image_address(svg), ""


def _bars(case: CaseEvidence) -> Iterator[Bar]:
    """Durations of the update side by side: both methods, QEMU's own figure, the floor and the budget."""
    rows: list[tuple[str, str, float | None, float | None]] = []
    for name, seen in (("forward", case.interruption.forward), ("return", case.interruption.return_)):
        resolution = f", resolution {seen.resolution_ms:.1f} ms" if seen.resolution_ms is not None else ""
        rows.append((f"Interruption {name}", f"by time stamps{resolution}", seen.low_ms, seen.high_ms))
    for name, seen in (("forward", case.interruption.forward), ("return", case.interruption.return_)):
        rows.append((f"Interruption {name}", "by frame loss: lost / rate", seen.frame_loss_ms, seen.frame_loss_ms))
    stop, resume = case.event("STOP"), case.event("RESUME")
    between = (resume.time_ns - stop.time_ns) / 1e6 if stop and resume else None
    rows.append(("STOP to RESUME", "events of source and target", between, between))
    rows.append(("QEMU downtime", "query-migrate on the source", case.qemu_downtime_ms, case.qemu_downtime_ms))
    floor = case.instrument.control_run_interruption_ms
    rows.append(("Floor", "longest gap without any update", floor, floor))
    if case.budget:
        length = f"{case.budget.queue_length:,} packets / {case.budget.rate:,.0f} per second"
        room = case.budget.longest_pause_ms
        rows.append(("Budget", f"tap queue: {length}", room, room))
    scale = max((high for *_, high in rows if high is not None), default=0.0) or 1.0
    known = [(label, note, low, high) for label, note, low, high in rows if low is not None and high is not None]
    if longest_pause_ms(case) is None and between is None:
        return
    for label, note, low, high in known:
        left = max(0.0, low / scale * 100) if low != high else 0.0
        yield Bar(label, note, low, high, left, max(0.0, high / scale * 100 - left))
