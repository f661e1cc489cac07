"""report.html: one self-contained page that works offline, prints, and reads without colour.

Text of a guest, a QEMU or a log is untrusted: the template engine escapes it and replaces its control characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from cprlib import files
from cprlib.errors import InstrumentError
from cprlib.evidence.case import STARTED_FILE, CaseEvidence, Packets
from cprlib.evidence.records import Outcome, Role
from cprlib.report import formatting
from cprlib.report.fault_matrix import fault_matrix
from cprlib.report.formatting import seconds_of, utc
from cprlib.report.patch_results import lacks_feature
from cprlib.report.plotting import image_address
from cprlib.report.read_results import EVIDENCE_CHECK
from cprlib.report.run_report import RunReport, answers
from cprlib.report.timeline import draw, event_times
from cprlib.update.events import Step
from cprlib.verdict.findings import Finding, worst_first
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.traffic_rules import unexplained_packets

HTML_FILE = "report.html"
TIMELINE_FILE = "timeline.svg"
EVIDENCE_FILES = (  # linked first, in this order; then the other files of the case's folder
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
FILTERS = (  # of the templates, by their names
    *(formatting.number, formatting.percent, formatting.duration, formatting.ms_range, formatting.by_direction),
    *(formatting.checks_passed, formatting.has_figures, formatting.paired_descriptors),
    *(worst_first, seconds_of, unexplained_packets),
)


@dataclass(frozen=True, slots=True)
class DurationBar:
    """One duration of the update as a bar.

    :param low, high: in ms; equal for a duration that is not a range.
    """

    label: str
    note: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CaseView:
    """A judged case as the page shows it."""

    judged: JudgedCase
    timeline: Markup | None
    timeline_problem: str
    links: tuple[tuple[str, str], ...]
    bars: list[DurationBar]
    rerun_command: str

    @property
    def outcome(self) -> Outcome:
        return self.judged.outcome

    @property
    def role(self) -> str:
        """What the case is for; empty for an update and for a case without evidence."""
        case = self.judged.evidence
        plain = case.role == Role.UPDATE or any(check.name == EVIDENCE_CHECK for check in case.checks)
        return "" if plain else case.role.value

    @property
    def reasons(self) -> tuple[Finding, ...]:
        """Why it did not pass; empty when it did."""
        return () if self.judged.outcome == Outcome.PASS else self.judged.verdict.reasons

    @property
    def passed(self) -> dict[str, list[str]]:
        """Findings that satisfy the policy, by property, without those of checks, which have a table."""
        checks = {check.name for check in self.judged.evidence.checks}
        found: dict[str, list[str]] = {}
        for finding in self.judged.verdict.findings:
            if finding.outcome == Outcome.PASS and finding.about not in checks:
                found.setdefault(finding.about, []).append(finding.text)
        return found

    @property
    def zero_ns(self) -> int | None:
        """Time zero of the events: STOP, or the first event."""
        case = self.judged.evidence
        first = min((event.time_ns for event in case.timeline), default=None)
        return event_times(case).get(Step.STOP, first)


def report_page(report: RunReport) -> str:
    """The text of ``report.html``; writes ``timeline.svg`` into the folder of each case with packets.

    :raises EnvironmentFailure: a folder cannot be written.
    """
    return render(
        "report.html",
        report=report,
        answers=answers(report),
        lacks_feature=lacks_feature(report.cases),
        cases=[_case_view(report, case) for case in worst_first(report.cases)],
        faults=fault_matrix(report.cases),
        started=utc(report.started_ns),
        finished=utc(report.finished_ns),
        history=(report.folder.parent / "index.html").exists(),
        Outcome=Outcome,
    )


def render(template: str, *folders: Path, **members: object) -> str:
    """A page that works offline, prints, and reads without colour; text is escaped and cleaned.

    :param template: a file in ``templates/``, or in one of the folders.
    :param folders: with further templates.
    :param members: what the template uses.
    """
    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent / "templates"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    engine.filters |= {each.__name__: each for each in FILTERS} | {"mark": formatting.MARK.__getitem__}
    return engine.get_template(template).render(utc=utc, **members)


def _finalize(value: object) -> object:
    """Clean untrusted text before it is escaped; show None as a dash."""
    if value is None:
        return formatting.UNKNOWN
    if isinstance(value, str) and not isinstance(value, Markup):
        return formatting.bounded(str(value))
    return value


def _case_view(report: RunReport, judged: JudgedCase) -> CaseView:
    case = judged.evidence
    folder = report.folder / "cases" / case.id
    timeline, problem = _draw_timeline(folder, case)
    present = {path.name for path in folder.glob("[!.]*") if path.is_file()} - {STARTED_FILE}
    names = [name for name in EVIDENCE_FILES if name in present]
    names += sorted(present.difference(names))
    links = tuple((name, f"cases/{quote(case.id)}/{quote(name)}") for name in names)
    return CaseView(judged, timeline, problem, links, _duration_bars(case), report.rerun_command(case))


def _draw_timeline(folder: Path, case: CaseEvidence) -> tuple[Markup | None, str]:
    """The address of the timeline, and why there is none."""
    try:
        packets = Packets.read(folder)
    except InstrumentError as error:
        return None, f"no timeline: {error.happened}"
    if packets is None or not packets.sent_us:
        return None, ""
    svg = draw(case, packets)
    files.write_text(folder / TIMELINE_FILE, svg, mode=0o600)
    return image_address(svg), ""


def _duration_bars(case: CaseEvidence) -> list[DurationBar]:
    """Service interruption by both methods, beside QEMU's downtime, the control run and the budget."""
    times_ns = event_times(case)
    complete = {Step.STOP, Step.RESUME} <= times_ns.keys()
    stop_to_resume = (times_ns[Step.RESUME] - times_ns[Step.STOP]) / 1e6 if complete else None
    if case.longest_pause_ms is None and stop_to_resume is None:
        return []
    bars: list[DurationBar] = []

    def add(label: str, note: str, low: float | None, high: float | None) -> None:
        if low is not None and high is not None:
            bars.append(DurationBar(label, note, low, high))

    directions = (("forward", case.interruption.forward), ("return", case.interruption.return_))
    for name, seen in directions:
        resolution = "" if seen.resolution_ms is None else f", resolution {seen.resolution_ms:.1f} ms"
        add(f"Interruption {name}", f"time-stamp based{resolution}", seen.low_ms, seen.high_ms)
    for name, seen in directions:
        add(f"Interruption {name}", "frame-loss based: lost / rate", seen.frame_loss_ms, seen.frame_loss_ms)
    add("STOP to RESUME", "QMP events of source and target", stop_to_resume, stop_to_resume)
    add("QEMU downtime", "query-migrate on the source", case.qemu_downtime_ms, case.qemu_downtime_ms)
    control_run = case.instrument.control_run_interruption_ms
    add("Control run", "longest gap without an update", control_run, control_run)
    if case.budget:
        capacity = f"tap queue: {case.budget.queue_length:,} packets / {case.budget.rate:,.0f} per second"
        add("Budget", capacity, case.budget.longest_pause_ms, case.budget.longest_pause_ms)
    return bars
