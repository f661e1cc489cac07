"""run.json, the interface for programs: its members are these records; docs/run.schema.json is generated from them.

A member may be added; renaming or removing one raises ``schema``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import msgspec

from cprlib import files
from cprlib.codec import BadValue, Count, Name, decode, dump_json, encode
from cprlib.errors import InstrumentError
from cprlib.evidence.records import DescriptorCount, FaultRecord, Outcome, Parameters, Role, UpdateFigures
from cprlib.qemu.facts import QemuFacts
from cprlib.report.environment import Environment
from cprlib.report.fault_matrix import Column, FaultEntry, fault_matrix
from cprlib.report.formatting import utc
from cprlib.report.run_report import RunReport, seconds_of
from cprlib.report.schema import SchemaFile
from cprlib.traffic.figures import Interruption, PerDirection
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.findings import Finding
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.policy import Policy
from cprlib.verdict.traffic_rules import unexplained_packets

RUN_FILE = "run.json"
RUN_SCHEMA: Final = 2

Moment = Annotated[str, msgspec.Meta(description="ISO 8601, UTC")]


class Milliseconds(msgspec.Struct, frozen=True, rename={"return_": "return"}):
    """Milliseconds in each direction."""

    forward: float | None
    return_: float | None


class MillisecondRange(msgspec.Struct, frozen=True, rename={"return_": "return"}):
    """Lower and upper end in milliseconds, in each direction."""

    forward: tuple[float, float] | None
    return_: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class RunCase:
    """One case.

    :param sent: test packets of the main stream.
    :param loss: one-way loss, RFC 7680.
    :param duplicates: in both directions, RFC 5560; :param reordered: in both directions, RFC 4737.
    :param interruption_ms: service interruption by time stamps (RFC 6201), the upper end of its range.
    :param fds: descriptors of the netdevs that are one open file on both sides (kcmp), and those that are not.
    :param unexplained: missing packets that no hop accounts for.
    :param reasons: the findings that decided the verdict.
    :param skipped: why the case did not run; empty when it did.
    :param skip_word: kind of that reason, which policies allow or refuse; empty when there is none.
    :param per_update: each update by itself.
    :param interruption_range_ms: by time stamps; :param interruption_frame_loss_ms: packets lost / rate, RFC 6201.
    :param qemu_downtime_ms: downtime of query-migrate.
    :param budget_ms: the longest pause that loses nothing: tap queue length / rate.
    :param control_run_interruption_ms: the longest gap in the control run.
    :param seconds: duration; :param retries: labs that died under the case.
    :param reproduce: a command line that runs the case again.
    :param folder: of the case's evidence, relative to run.json.
    """

    id: Name
    verdict: Outcome
    mechanism: Mechanism
    sent: Count | None
    loss: PerDirection
    duplicates: Count | None
    reordered: Count | None
    interruption_ms: Milliseconds
    fds: DescriptorCount
    unexplained: Count | None
    title: str
    role: Role
    test: str
    reasons: tuple[Finding, ...]
    skipped: str
    skip_word: str
    parameters: Parameters
    updates: Count | None
    per_update: tuple[UpdateFigures, ...]
    duplicates_by_direction: PerDirection
    reordered_by_direction: PerDirection
    interruption_range_ms: MillisecondRange
    interruption_frame_loss_ms: Milliseconds
    qemu_downtime_ms: float | None
    budget_ms: float | None
    control_run_interruption_ms: float | None
    seconds: float | None
    retries: Count
    warnings: tuple[str, ...]
    reproduce: str
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultCell(FaultRecord):
    """A fault that was put into an update, and the QEMU that survived it.

    :param fault: its name; :param case: id of the case; :param setting: of the case, such as ``vhost x4``.
    :param verdict: of its checks; :param reasons: its findings, without those that passed.
    :param died: when the guest was lost, where no QEMU survives.
    """

    fault: str
    case: str
    setting: str
    verdict: Outcome
    died: Moment | None
    reasons: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class FaultTable:
    """Faults that were put into updates: rows are phases in order, columns are actor and action.

    A cell of the table has each fault of its phase, actor and action. Empty when no fault was put in.
    """

    phases: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[FaultCell, ...]


@dataclass(frozen=True, slots=True)
class RunDocument:
    """The result of one run.

    Readers must accept members that are not described here. A figure that is not known is null, never 0. Directions:
    forward is into the guest, return is back.

    :param exit_status: of ``cprlib run``.
    :param reasons: the findings that decided the verdict.
    :param problems: of the run as a whole: a shard or a point that is missing, a job that was cut off.
    :param command: the command line of the run; empty when it is not known.
    :param qemu: each QEMU that took part, once.
    """

    schema: Literal[2]
    verdict: Outcome
    exit_status: Literal[0, 1, 3]
    reasons: tuple[Finding, ...]
    problems: tuple[str, ...]
    policy: Policy
    started: Moment | None
    finished: Moment | None
    command: str
    environment: Environment
    qemu: tuple[QemuFacts, ...]
    cases: tuple[RunCase, ...]
    fault_matrix: FaultTable


RUN_SCHEMA_FILE = SchemaFile("run", RUN_SCHEMA, RunDocument)


def run_document(report: RunReport) -> RunDocument:
    """A run as run.json holds it."""
    matrix = fault_matrix(report)
    return RunDocument(
        schema=RUN_SCHEMA,
        verdict=report.verdict.outcome,
        exit_status=cast(Literal[0, 1, 3], int(report.exit_status)),
        reasons=report.verdict.reasons,
        problems=report.problems,
        policy=report.policy,
        started=utc(report.started_ns),
        finished=utc(report.finished_ns),
        command=report.command,
        environment=replace(report.environment, lab_retries=report.lab_retries),
        qemu=report.qemus,
        cases=tuple(run_case(case) for case in report.cases),
        fault_matrix=FaultTable(matrix.phases, matrix.columns, tuple(map(_fault_cell, matrix.entries))),
    )


def run_case(judged: JudgedCase) -> RunCase:
    """One member of ``cases``."""
    case = judged.evidence
    forward, back = case.interruption.forward, case.interruption.return_
    return RunCase(
        id=case.id,
        verdict=judged.outcome,
        mechanism=case.mechanism,
        sent=case.sent,
        loss=case.loss,
        duplicates=case.duplicates.total,
        reordered=case.reordered.total,
        interruption_ms=Milliseconds(forward.high_ms, back.high_ms),
        fds=case.fds,
        unexplained=unexplained_packets(case),
        title=case.title,
        role=case.role,
        test=case.test,
        reasons=judged.verdict.reasons,
        skipped=case.skip_text,
        skip_word=case.skip_word,
        parameters=case.parameters,
        updates=case.updates,
        per_update=case.per_update,
        duplicates_by_direction=case.duplicates,
        reordered_by_direction=case.reordered,
        interruption_range_ms=MillisecondRange(_range(forward), _range(back)),
        interruption_frame_loss_ms=Milliseconds(forward.frame_loss_ms, back.frame_loss_ms),
        qemu_downtime_ms=case.qemu_downtime_ms,
        budget_ms=case.budget.longest_pause_ms if case.budget else None,
        control_run_interruption_ms=case.instrument.control_run_interruption_ms,
        seconds=seconds_of(case),
        retries=case.retries,
        warnings=case.warnings,
        reproduce=case.reproduce,
        folder=f"cases/{case.id}",
    )


def _fault_cell(entry: FaultEntry) -> FaultCell:
    return FaultCell(
        **asdict(entry.fault),
        fault=entry.fault.name,
        case=entry.case,
        setting=entry.setting,
        verdict=entry.outcome,
        died=entry.died,
        reasons=tuple(finding for finding in entry.findings if finding.outcome != Outcome.PASS),
    )


def _range(seen: Interruption) -> tuple[float, float] | None:
    return None if seen.low_ms is None or seen.high_ms is None else (seen.low_ms, seen.high_ms)


def run_value(report: RunReport) -> dict[str, Any]:
    """A run as the JSON object that run.json holds.

    :raises InstrumentError: a member does not fit its type; the message has the path to it.
    """
    value: dict[str, Any] = encode(run_document(report))
    validate(value)
    return value


def validate(value: object) -> None:
    """Check that a value is a run.json of this version.

    :raises InstrumentError: it is none; the message has the path to the member.
    """
    try:
        decode(RunDocument, value)
    except BadValue as error:
        raise InstrumentError("write run.json", str(error), "report this as a bug") from error


def write_run_json(report: RunReport) -> Path:
    """Write run.json into the results folder, whole or not at all.

    :raises InstrumentError: a member does not fit its type.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    path = report.folder / RUN_FILE
    files.write_text(path, dump_json(run_value(report)), mode=0o600)
    return path


def read_machine(results: Path) -> tuple[Environment, str] | None:
    """Machine and command line of a run from its run.json, whatever its version; None when it cannot be read.

    A report that is written again keeps them: the evidence does not have them.
    """
    try:
        value: Mapping[str, Any] = msgspec.json.decode((results / RUN_FILE).read_bytes(), type=dict[str, Any])
        return decode(Environment, value["environment"]), decode(str, value.get("command", ""))
    except (OSError, KeyError, BadValue, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
