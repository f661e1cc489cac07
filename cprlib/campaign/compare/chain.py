"""What one guest showed: its updates in a row, each measured by itself, and what a policy says of it.

The chain is the unit of a comparison: updates of one guest have the guest, the lab and the minute in common, so that
they are no independent observations; chains are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from cprlib.evidence.case import CaseEvidence, Interruption, Outcome, PerDirection, UpdateFigures
from cprlib.verdict.findings import Finding
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.traffic_rules import longest_pause_ms


@dataclass(frozen=True, slots=True)
class Metric:
    """A property of an update that is compared.

    :param name: as in compare.json; :param label: for people.
    :param note: how it is measured.
    """

    name: str
    label: str
    note: str


DURATIONS = (
    Metric("interruption-forward", "interruption into the guest", "by time stamps (RFC 6201), middle of its range"),
    Metric("interruption-return", "interruption back", "by time stamps (RFC 6201), middle of its range"),
    Metric("stop-to-resume", "STOP to RESUME", "QEMU's own stamps, source to target"),
    Metric("qemu-downtime", "QEMU's downtime", "query-migrate on the source"),
    Metric("time-to-traffic", "RESUME to first answers", "until an answer had come back on every flow"),
)
COUNTS = (
    Metric("lost", "lost packets", "both directions, RFC 7680"),
    Metric("duplicates", "duplicates", "both directions, RFC 5560"),
    Metric("reordered", "reordered packets", "both directions, RFC 4737"),
)
BY_STATISTICS = ("interruption", "reordered")
"""Findings of the judge that one guest does not decide on here. A machine that is overloaded makes pauses long, and
reorders: a flow changes its queue when the guest answers from another, or when tun has forgotten it after 3 s without
a packet (TUN_FLOW_EXPIRE, drivers/net/tun.c); that was seen without any update. It neither loses nor doubles any."""
INSTRUMENT = ("instrument", "control-run", "ledger", "lab", "evidence", "avocado-test")
NUMBERED = re.compile(r"-\d+\Z")


@dataclass(frozen=True, slots=True)
class Chain:
    """One guest, updated at least once.

    :param case: id of its case, without the number that a repetition has.
    :param updates: that were carried out.
    :param durations: ms of each update, by metric; an update in which a metric is not known has none.
    :param packets: counted in all updates, by metric; :param affected: updates in which there was any.
    :param failures: why the policy refuses it, without what statistics decide on (:data:`BY_STATISTICS`).
    :param doubts: why it is not believed; then it counts for nothing but its failed checks.
    :param overlong: a pause was longer than the tap queue has room for: its counts accuse nobody.
    :param longest_ms: the longest pause, as policies look at it.
    :param folder: of its evidence.
    :param qemu: version and sha256 of the QEMU that the guest ended in.
    """

    case: str
    updates: int
    durations: Mapping[str, tuple[float, ...]]
    packets: Mapping[str, int]
    affected: Mapping[str, int]
    failures: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    skipped: str = ""
    overlong: bool = False
    sent: int = 0
    longest_ms: float | None = None
    started_ns: int = 0
    seconds: float = 0.0
    folder: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    qemu: tuple[str, str] = ("", "")

    @property
    def believed(self) -> bool:
        """Whether its figures count."""
        return not self.doubts and not self.skipped and self.updates > 0

    def middle(self, metric: str) -> float | None:
        """Median of the updates in ms, which one long update does not move; None when none is known."""
        values = self.durations.get(metric, ())
        return median(values) if values else None


def chain_of(judged: JudgedCase, folder: str = "") -> Chain:
    """Read a judged case as a chain; a case of one update is a chain of one.

    :param folder: of its evidence, for links.
    """
    case = judged.evidence
    rows = case.per_update or _single(case)
    overlong = _overlong(case)
    failures = [finding for finding in judged.verdict.findings if finding.outcome == Outcome.FAIL]
    accused = [item for item in failures if not _by_statistics(item) and not (overlong and _counted(item.about))]
    doubts = [
        finding
        for finding in judged.verdict.findings
        if finding.outcome == Outcome.INCONCLUSIVE and finding.about in INSTRUMENT
    ]
    last = case.target or case.source
    counts = {metric.name: [_count(row, metric.name) for row in rows] for metric in COUNTS}
    return Chain(
        case=NUMBERED.sub("", case.id) if NUMBERED.search(case.id) and _repeated(case) else case.id,
        updates=case.updates or 0,
        durations={metric.name: _known([_duration(row, metric.name) for row in rows]) for metric in DURATIONS},
        packets={name: sum(value or 0 for value in values) for name, values in counts.items()},
        affected={name: sum(1 for value in values if value) for name, values in counts.items()},
        failures=tuple(f"{item.about}: {item.text}" for item in accused),
        doubts=tuple(f"{item.about}: {item.text}" for item in doubts),
        skipped=case.skipped,
        overlong=overlong,
        sent=case.sent or 0,
        longest_ms=longest_pause_ms(case),
        started_ns=case.started_ns or 0,
        seconds=round(((case.finished_ns or 0) - (case.started_ns or 0)) / 1e9, 3) if case.finished_ns else 0.0,
        folder=folder,
        parameters={
            "queues": case.parameters.queues,
            "vhost": case.parameters.vhost,
            "rate": case.parameters.rate,
            "size": case.parameters.size,
            "ip_version": case.parameters.ip_version,
            "machine": case.parameters.machine,
        },
        qemu=(last.version, last.sha256) if last else ("", ""),
    )


def _by_statistics(finding: Finding) -> bool:
    late = finding.about.startswith("stream ") and " reordered of " in finding.text
    return late or finding.about in BY_STATISTICS


def _counted(about: str) -> bool:
    return about in ("loss", "duplicates", "ledger") or about.startswith("stream ")


def _repeated(case: CaseEvidence) -> bool:
    """Whether the number at the id's end was given to a repetition: the test's own name ends otherwise."""
    own = case.test.rsplit(".", 1)[-1].split(";", maxsplit=1)[0].replace("_", "-")
    return bool(own) and not own.endswith(case.id)


def _single(case: CaseEvidence) -> Sequence[UpdateFigures]:
    """Figures of a case whose evidence has none for each update."""
    if case.updates != 1:
        return ()
    return (
        UpdateFigures(
            number=1,
            sent=case.sent,
            loss=case.loss,
            duplicates=case.duplicates,
            reordered=case.reordered,
            interruption=case.interruption,
            qemu_downtime_ms=case.qemu_downtime_ms,
        ),
    )


def _overlong(case: CaseEvidence) -> bool:
    pause = longest_pause_ms(case)
    room = case.budget.longest_pause_ms if case.budget else None
    return pause is not None and room is not None and pause > room


def _duration(row: UpdateFigures, name: str) -> float | None:
    match name:
        case "interruption-forward":
            return _middle(row.interruption.forward)
        case "interruption-return":
            return _middle(row.interruption.return_)
        case "stop-to-resume":
            return row.stop_to_resume_ms
        case "qemu-downtime":
            return row.qemu_downtime_ms
        case _:
            return row.traffic_after_ms


def _middle(seen: Interruption) -> float | None:
    if seen.low_ms is None or seen.high_ms is None:
        return None
    return (seen.low_ms + seen.high_ms) / 2


def _count(row: UpdateFigures, name: str) -> int | None:
    counted: PerDirection = {"lost": row.loss, "duplicates": row.duplicates, "reordered": row.reordered}[name]
    return counted.total


def _known(values: Sequence[float | None]) -> tuple[float, ...]:
    """Those above 0: a ratio wants them so, and no duration here is really 0."""
    return tuple(value for value in values if value is not None and value > 0)
