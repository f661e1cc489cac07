"""One guest of a comparison: its updates, each measured by itself, and what the policy refuses.

The guest is the unit of a comparison, not the update: updates of one guest share the guest, the lab and the minute, so
they are not independent observations. Guests are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from msgspec.structs import replace as replace_struct

from cprlib.errors import InstrumentError
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome, UpdateFigures
from cprlib.report.build_report import judge_cases
from cprlib.report.matrix import points_of
from cprlib.report.results_folder import case_id
from cprlib.traffic.figures import Interruption, PerDirection
from cprlib.verdict.findings import Finding
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.policy import CountLimits, Policy


@dataclass(frozen=True, slots=True)
class Metric:
    """A property of an update that is compared.

    :param name: in compare.json. :param label: for people.
    :param note: how it is measured.
    """

    name: str
    label: str
    note: str


INSTRUMENT = ("instrument", "control-run", "ledger", "lab", "evidence", "avocado-test")  # findings about the measuring
PACKET_FINDINGS = ("loss", "duplicates", "ledger")
UNLIMITED = 2**62
PARAMETERS = ("queues", "vhost", "rate", "size", "ip_version", "machine")  # equal in guests that are compared
MORE_PARAMETERS = ("vcpus", "memory")  # likewise, in the member ``more``; unknown in older results
GIVEN_PARAMETERS = re.compile(r"nic\..+|qemu_args|mode")  # likewise, where a run gave them
GuestParameters = Mapping[str, str | int | float | bool | None]
DEEPEST = 5  # folders between a given folder and cases/: results/a/round-1/<test>


def middle_ms(measured: Interruption) -> float | None:
    """The middle of its range; None when an end is unknown."""
    if measured.low_ms is None or measured.high_ms is None:
        return None
    return (measured.low_ms + measured.high_ms) / 2


DURATIONS: Mapping[Metric, Callable[[UpdateFigures], float | None]] = {
    Metric(
        "interruption-forward", "interruption forward", "by time stamps (RFC 6201), middle of its range"
    ): lambda update: middle_ms(update.interruption.forward),
    Metric(
        "interruption-return", "interruption return", "by time stamps (RFC 6201), middle of its range"
    ): lambda update: middle_ms(update.interruption.return_),
    Metric("stop-to-resume", "STOP to RESUME", "QEMU's own time stamps, source to target"): lambda update: (
        update.stop_to_resume_ms
    ),
    Metric("qemu-downtime", "QEMU's downtime", "query-migrate on the source"): lambda update: update.qemu_downtime_ms,
    Metric("time-to-traffic", "RESUME to first answers", "until an answer came back on every flow"): lambda update: (
        update.traffic_after_ms
    ),
}
COUNTS: Mapping[Metric, Callable[[UpdateFigures], PerDirection]] = {
    Metric("lost", "lost packets", "both directions, RFC 7680"): lambda update: update.loss,
    Metric("duplicates", "duplicates", "both directions, RFC 5560"): lambda update: update.duplicates,
    Metric("reordered", "reordered packets", "both directions, RFC 4737"): lambda update: update.reordered,
}


@dataclass(frozen=True, slots=True)
class UsedQemu:
    """A QEMU that took part."""

    version: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class GuestResult:
    """One guest. It has no update when the case was skipped, or when its first update failed.

    :param case: id of its case, without the number of a repetition.
    :param updates: carried out.
    :param durations: ms of each update, by metric; an update without a known value has none.
    :param packets: of all updates, by metric; a metric that is unknown in all updates is missing.
    :param affected: updates with at least one such packet.
    :param unknown: updates whose number of such packets is unknown; a metric without such updates is missing.
    :param failures: what the policy refuses, except the limits of :func:`comparison_policy`.
    :param problems: why its figures are discarded; its failed checks still count.
    :param skipped: why the case was skipped; empty when it ran.
    :param overlong: a pause was longer than the tap queue has room for, so its packet counts say nothing.
    :param longest_ms: the longest pause, as policies see it.
    :param folder: of its evidence.
    :param qemu: that the guest ended in.
    """

    case: str
    updates: int
    durations: Mapping[str, tuple[float, ...]]
    packets: Mapping[str, int]
    affected: Mapping[str, int]
    failures: tuple[Finding, ...] = ()
    problems: tuple[str, ...] = ()
    skipped: str = ""
    overlong: bool = False
    sent: int = 0
    longest_ms: float | None = None
    started_ns: int = 0
    seconds: float = 0.0
    folder: str = ""
    parameters: GuestParameters = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    qemu: UsedQemu = UsedQemu()

    @property
    def valid(self) -> bool:
        """Whether its figures count."""
        return not self.problems and not self.skipped and self.updates > 0

    def known_updates(self, metric: str) -> int:
        """Updates whose number of such packets is known."""
        return self.updates - self.unknown.get(metric, 0)

    def median_ms(self, metric: str) -> float | None:
        """Median of its updates, which one long update does not change; None without a known value."""
        values = self.durations.get(metric, ())
        return median(values) if values else None


def comparison_policy(policy: Policy) -> Policy:
    """The policy without limits on durations and reordered packets: statistics decide on these.

    A machine under load makes pauses long, and reorders: a flow changes its queue when the guest answers from another
    one, or when tun has forgotten it after 3 s without a packet (TUN_FLOW_EXPIRE, drivers/net/tun.c). That happens
    without any update. It loses and duplicates none.
    """
    return replace_struct(
        policy,
        interruption=replace_struct(policy.interruption, max_ms=None, max_ratio=None),
        reordered=CountLimits(UNLIMITED, UNLIMITED),
        streams=replace_struct(policy.streams, reordered=UNLIMITED, longest_stall_ms=None),
    )


def guest_result(judged: JudgedCase, folder: str = "") -> GuestResult:
    """A case, judged by a :func:`comparison_policy`, as a guest; a case of one update is a guest with one update.

    :param folder: of its evidence, for links.
    """
    case = judged.evidence
    updates = updates_of(case)
    failures = [item for item in judged.verdict.findings if item.outcome == Outcome.FAIL]
    last = case.target or case.source
    totals = {metric.name: [of(update).total for update in updates] for metric, of in COUNTS.items()}
    counts = {name: [value for value in values if value is not None] for name, values in totals.items()}
    unknown = {name: (case.updates or 0) - len(values) for name, values in counts.items()}
    run = case.parameters
    return GuestResult(
        case=_id_without_repetition(case),
        updates=case.updates or 0,
        durations={metric.name: _known(of(update) for update in updates) for metric, of in DURATIONS.items()},
        packets={name: sum(values) for name, values in counts.items() if values},
        affected={name: sum(1 for value in values if value) for name, values in counts.items() if values},
        failures=tuple(item for item in failures if not (case.overlong and _about_packets(item))),
        problems=discard_reasons(judged),
        skipped=case.skip_text,
        overlong=case.overlong,
        sent=case.sent or 0,
        longest_ms=case.longest_pause_ms,
        started_ns=case.started_ns or 0,
        seconds=round(((case.finished_ns or 0) - (case.started_ns or 0)) / 1e9, 3) if case.finished_ns else 0.0,
        folder=folder,
        parameters={name: getattr(run, name) for name in PARAMETERS}
        | {
            name: value
            for name, value in run.more.items()
            if name in MORE_PARAMETERS or GIVEN_PARAMETERS.fullmatch(name)
        },
        unknown={name: count for name, count in unknown.items() if count},
        qemu=UsedQemu(last.version, last.sha256) if last else UsedQemu(),
    )


def discard_reasons(judged: JudgedCase) -> tuple[str, ...]:
    """Why the figures of a guest are discarded; empty when they are valid."""
    found = [item for item in judged.verdict.findings if item.outcome == Outcome.INCONCLUSIVE]
    return tuple(f"{item.about}: {item.text}" for item in found if item.about in INSTRUMENT)


def read_guests(folder: Path, policy: Policy) -> dict[str, tuple[GuestResult, ...]]:
    """The guests in a saved results folder, or in a folder of such, by case and in the order of their start.

    :raises InstrumentError: there is none.
    """
    patterns = ["/".join(["*"] * depth + ["cases", "*", "case.json"]) for depth in range(DEEPEST)]
    results = sorted(
        {
            path.parent.parent.parent
            for pattern in patterns
            for path in folder.glob(pattern)
            if not any(part.startswith(".") or part == "latest" for part in path.relative_to(folder).parts)
        }
    )
    found: dict[str, list[GuestResult]] = {}
    for place in results:
        for judged in judge_cases(place, comparison_policy(policy)):
            guest = guest_result(judged, str(place / "cases" / judged.evidence.id))
            if guest.updates or guest.skipped or guest.failures:
                found.setdefault(guest.case, []).append(guest)
    if not found:
        raise InstrumentError(f"read {folder}", "no case of a live update in it", "give the folder of a run")
    return {case: tuple(sorted(guests, key=lambda guest: guest.started_ns)) for case, guests in found.items()}


def _about_packets(finding: Finding) -> bool:
    return finding.about in PACKET_FINDINGS or finding.property_name == "stream"


def _id_without_repetition(case: CaseEvidence) -> str:
    """The id of the first case of a test at a point: a case that repeats it has a number behind that id."""
    first = "-".join([case_id(case.test), *points_of([case])])
    return first if re.fullmatch(rf"{re.escape(first)}-\d+", case.id) else case.id


def updates_of(case: CaseEvidence) -> Sequence[UpdateFigures]:
    """Figures of each update of a case; of a single update they are those of the case."""
    if case.per_update or case.updates != 1:
        return case.per_update
    return (
        UpdateFigures(
            number=1,
            sent=case.sent,
            loss=case.loss,
            duplicates=case.duplicates,
            reordered=case.reordered,
            interruption=case.interruption,
            qemu_downtime_ms=case.qemu_downtime_ms,
            fds=case.fds,
        ),
    )


def _known(values: Iterable[float | None]) -> tuple[float, ...]:
    """Those that are known; query-migrate reports 0 for less than 1 ms."""
    return tuple(value for value in values if value is not None and value >= 0)
