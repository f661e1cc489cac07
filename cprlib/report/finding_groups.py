"""Findings of all cases, grouped by cause: one defect fails many cases, and a reader wants to see it once.

Findings belong together when their typed fields agree: outcome, property, direction; for lost packets also hop, cause
and period of the ledger's rows; for states that differ the part of the state. No sentence is parsed.

A cause that is seen only in cases of a worse one is listed with it: it may be its consequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cprlib.evidence.case import OTHER_SKIP
from cprlib.evidence.records import Outcome
from cprlib.report.formatting import number, seconds_of
from cprlib.report.rerun import rerun_command
from cprlib.traffic.figures import Cause, Direction, HopName, LedgerRow, Period
from cprlib.verdict.findings import Finding
from cprlib.verdict.judge import JudgedCase
from cprlib.words import counted

_BAD = (Outcome.FAIL, Outcome.INCONCLUSIVE)
_AROUND = (Period.BEFORE_STOP, Period.STOPPED, Period.AFTER_RESUME)  # one cause may lose packets in all of them
_WORST_FIRST = (  # properties; others follow, then each by its number of cases
    ("update-completes", "survives", "boots", "completes", "one-owner", "runs-nowhere", "source-runs", "ends"),
    ("loss", "all-arrive", "stream", "ledger", "duplicates", "reordered"),
)
_FAILED = {  # a property that does not hold, in words; of others the name is shown
    "survives": "QEMU or its guest died, refused or hangs",
    "boots": "the guest does not boot",
    "update-completes": "the update does not complete",
    "source-runs": "after a failed update the source does not run the guest",
    "ends": "a failed update does not end",
    "vhost": "after a failed update the source has lost vhost",
    "workers": "after a failed update the source lacks vhost workers",
    "tap": "a failed update changed the source's tap",
    "all-arrive": "packets lost with a full receive ring",
    "stream": "a stream beside the measured one lost packets or stalled",
    "ledger": "packets missing that no hop accounts for",
    "identity": "a descriptor is not the same open file in the target",
}
_NOT_KNOWN = {
    "instrument": "the instrument was not sound",
    "control-run": "packets lost without an update, or no control run",
    "evidence": "no evidence",
    "lab": "the lab died",
}
_PLACES: dict[str, str] = {HopName.QEMU: "in QEMU", HopName.UNEXPLAINED: "at no known hop"}
_STATE_PARTS = 2  # of the path of a difference: `kernel/link`


@dataclass(frozen=True, slots=True)
class _Key:
    """What findings of one cause have in common; ``about`` is the property."""

    outcome: Outcome
    about: str
    direction: Direction | None = None
    place: str = ""
    cause: str = ""
    period: str = ""


@dataclass(frozen=True, slots=True)
class _Occurrence:
    """A finding of a case, and the rows of the ledger that it is about."""

    case: JudgedCase
    finding: Finding
    rows: tuple[LedgerRow, ...] = ()


@dataclass(frozen=True, slots=True)
class AlsoSeen:
    """A cause that was seen only in cases of a worse one.

    :param title: what happened; :param text: the finding of one case.
    :param cases: their ids.
    """

    title: str
    text: str
    cases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FindingGroup:
    """Findings of one cause in all cases of a run.

    :param outcome: ``fail`` or ``inconclusive``.
    :param about: the property: ``loss``, ``identity``, a check's name without the step or fault at which it was made.
    :param title: what happened, in a few words with figures.
    :param text: the finding of the example.
    :param direction: of the packets; null when the cause is about both, or about none.
    :param place: where packets were lost (a hop of the ledger), the part of a state that differs, or the keyword of a
        skip; empty when there is none. :param periods: when packets were lost.
    :param cases: ids of the cases; :param findings: number of findings in them.
    :param example: id of the case that shows it best, whose evidence is in ``cases/ID``.
    :param command: runs the example again.
    :param also: other causes that were seen only in these cases, and may be consequences.
    """

    outcome: Outcome
    about: str
    title: str
    text: str
    direction: Direction | None
    place: str
    periods: tuple[Period, ...]
    cases: tuple[str, ...]
    findings: int
    example: str
    command: str
    also: tuple[AlsoSeen, ...] = ()

    @property
    def heading(self) -> str:
        return f"{self.title}: {counted(len(self.cases), 'case')}"


def finding_groups(cases: Iterable[JudgedCase], command: str) -> tuple[FindingGroup, ...]:
    """Group the findings that decided the cases which failed or are inconclusive, the worst group first.

    :param command: command line of the run; empty when it is unknown.
    """
    occurrences: dict[_Key, list[_Occurrence]] = {}
    for case in cases:
        if case.outcome in _BAD:
            names = {finding.property_name for finding in case.verdict.reasons}
            for finding in case.verdict.reasons:
                if finding.property_name == "survives" and "update-completes" in names:
                    continue  # the same error, which ended the test
                for key, rows in _keys(case, finding):
                    occurrences.setdefault(key, []).append(_Occurrence(case, finding, rows))
    groups: list[FindingGroup] = []
    for key, members in sorted(occurrences.items(), key=lambda item: _rank(*item)):
        group = _group(key, members, command)
        for index, worse in enumerate(groups):
            if group.outcome == worse.outcome and set(group.cases) <= set(worse.cases):
                groups[index] = replace(worse, also=(*worse.also, AlsoSeen(group.title, group.text, group.cases)))
                break
        else:
            groups.append(group)
    return tuple(groups)


def _keys(case: JudgedCase, finding: Finding) -> Iterator[tuple[_Key, tuple[LedgerRow, ...]]]:
    """The causes of a finding: one, or one for each place where packets were lost or a state differs."""
    evidence, name = case.evidence, finding.property_name
    if name == "loss":
        # The policy fails no update for packets with these causes.
        excused = (Cause.GUEST, Cause.INSTRUMENT) if finding.outcome == Outcome.FAIL else ()
        rows = [row for row in evidence.missing if row.direction == finding.direction and row.cause not in excused]
        keys: dict[_Key, list[LedgerRow]] = {}
        for row in rows:
            when = "around" if row.period in _AROUND else row.period
            key = _Key(finding.outcome, name, finding.direction, row.hop, row.cause, when)
            keys.setdefault(key, []).append(row)
        if keys:
            yield from ((key, tuple(members)) for key, members in keys.items())
            return
    if name == "skipped":
        yield _Key(finding.outcome, name, None, evidence.skip_word or OTHER_SKIP), ()
        return
    differing = [record for record in evidence.equivalence if record.check == finding.about]
    paths = [difference.path.split("/") for record in differing for difference in record.differences]
    if places := dict.fromkeys("/".join(path[:_STATE_PARTS]) for path in paths):
        yield from ((_Key(finding.outcome, "state", None, place), ()) for place in places)
        return
    yield _Key(finding.outcome, name, finding.direction), ()


def _rank(key: _Key, members: Sequence[_Occurrence]) -> tuple[int, int, int, int, str]:
    """Sort key: fail before inconclusive, a lost guest before lost packets before the rest, many cases before few."""
    names = [name for names in _WORST_FIRST for name in names]
    severity = next((rank for rank, names in enumerate(_WORST_FIRST) if key.about in names), len(_WORST_FIRST))
    cases = {occurrence.case.evidence.id for occurrence in members}
    name = names.index(key.about) if severity < len(_WORST_FIRST) else 0
    others = f"{key.about} {key.direction} {key.place} {key.period}"
    return _BAD.index(key.outcome), severity, -len(cases), name, others


def _group(key: _Key, members: Sequence[_Occurrence], command: str) -> FindingGroup:
    def simplicity(occurrence: _Occurrence) -> tuple[int, float]:
        return len(occurrence.case.verdict.reasons), seconds_of(occurrence.case.evidence) or 0.0

    example = min(members, key=simplicity)
    periods = {row.period for occurrence in members for row in occurrence.rows}
    return FindingGroup(
        outcome=key.outcome,
        about=key.about,
        title=_title(key, members),
        text=example.finding.text,
        direction=key.direction,
        place=key.place,
        periods=tuple(period for period in Period if period in periods),
        cases=tuple(dict.fromkeys(occurrence.case.evidence.id for occurrence in members)),
        findings=len(members),
        example=example.case.evidence.id,
        command=rerun_command(command, example.case.evidence.reproduce),
    )


def _title(key: _Key, members: Sequence[_Occurrence]) -> str:
    """What happened, in a few words."""
    direction = f" {key.direction}" if key.direction else ""
    fails = key.outcome == Outcome.FAIL
    name = f"{key.about}{direction} {'fails' if fails else 'is inconclusive'}"
    words = (_FAILED if fails else _NOT_KNOWN).get(key.about, name)
    match key.about:
        case "loss" if fails or key.place:
            where = f" {_PLACES.get(key.place, f'in the {key.place}')}" if key.place else ""
            words = f"{_amount(members)} lost{direction}{where}{_when(members)}"
        case "duplicates" if fails:
            words = f"packets duplicated{direction}"
        case "reordered" if fails:
            words = f"packets reordered{direction}"
        case "interruption" if fails:
            words = "the service interruption is too long"
        case "skipped":
            words = f"skipped ({key.place}), which the policy does not allow"
        case "state":
            words = f"{key.place} differs"
    return words


def _when(members: Sequence[_Occurrence]) -> str:
    periods = {row.period for occurrence in members for row in occurrence.rows} - {Period.UNKNOWN}
    if len(periods) > 1:
        return " around the update"
    return f" {periods.pop()}" if periods else ""


def _amount(members: Sequence[_Occurrence]) -> str:
    """Packets per case: ``2 packets per queue`` when all cases agree, else the range."""
    counts, per_queue = [], []
    for occurrence in members:
        case = occurrence.case.evidence
        total = case.loss.forward if occurrence.finding.direction == Direction.FORWARD else case.loss.return_
        lost = sum(row.count for row in occurrence.rows) if occurrence.rows else total or 0
        counts.append(lost)
        per_queue.append(lost / (case.parameters.queues or 1) / (case.updates or 1))
    low, high = min(counts), max(counts)
    if low < high and len(set(per_queue)) == 1 and per_queue[0].is_integer():
        return f"{counted(round(per_queue[0]))} per queue and update"
    return counted(high) if low == high else f"{number(low)} to {counted(high)}"
