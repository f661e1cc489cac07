"""run.json, the interface for programs: its members are these records; docs/run.schema.json is generated from them.

A member may be added; renaming or removing one raises ``schema``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec

from cprlib import files
from cprlib.codec import BadValue, Count, Name, decode, dump_json, encode, load_json
from cprlib.evidence.records import DescriptorCount, Outcome, Parameters, Role, UpdateFigures
from cprlib.qemu.facts import QemuFacts
from cprlib.report.environment import Environment
from cprlib.report.fault_matrix import FaultTable, fault_matrix
from cprlib.report.finding_groups import FindingGroup
from cprlib.report.formatting import Moment, seconds_of, utc
from cprlib.report.patch_results import PatchResult
from cprlib.report.results_folder import BASELINE_FILE, UNFINISHED, ProcessId
from cprlib.report.run_report import Answers, RunReport, answers
from cprlib.report.schema import SchemaFile
from cprlib.traffic.figures import Interruption, PerDirection
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.findings import Finding
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.policy import Policy
from cprlib.verdict.traffic_rules import unexplained_packets

RUN_FILE = "run.json"
RUN_SCHEMA: Final = 2


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
    :param first_try: why the case was inconclusive before it was repeated; empty when it was not.
    :param reproduce: a command line that runs the case again.
    :param folder: of the case's evidence, relative to run.json; empty for a test that left none.
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
    first_try: tuple[str, ...]
    warnings: tuple[str, ...]
    reproduce: str
    folder: str


@dataclass(frozen=True, slots=True)
class RunDocument:
    """The result of one run.

    Readers must accept members that are not described here. A figure that is not known is null, never 0. Directions:
    forward is into the guest, return is back.

    :param exit_status: of ``cprlib run``.
    :param reasons: the findings that decided the verdict.
    :param answers: for people: the first three questions.
    :param groups: the findings that decided, by cause over all cases; the worst first.
    :param patches: what the cases show of each patch of the series, and which properties they did not cover.
    :param problems: of the run as a whole: a shard or a point that is missing, a job that was cut off.
    :param command: the command line of the run; empty when it is not known.
    :param qemu: each QEMU that took part, once.
    """

    schema: Literal[2]
    verdict: Outcome
    exit_status: Literal[0, 1, 3]
    answers: Answers
    groups: tuple[FindingGroup, ...]
    patches: tuple[PatchResult, ...]
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


def run_value(report: RunReport) -> dict[str, Any]:
    """A run as the JSON object that run.json holds.

    :raises InstrumentError: a member does not fit its type; the message has the path to it.
    """
    document = RunDocument(
        schema=RUN_SCHEMA,
        verdict=report.verdict.outcome,
        exit_status=cast(Literal[0, 1, 3], int(report.exit_status)),
        answers=answers(report),
        groups=report.groups,
        patches=report.patches,
        reasons=report.verdict.reasons,
        problems=report.problems,
        policy=report.policy,
        started=utc(report.started_ns),
        finished=utc(report.finished_ns),
        command=report.command,
        environment=replace(report.environment, lab_retries=report.lab_retries),
        qemu=report.qemus,
        cases=tuple(_run_case(case, report.evidence_folder(case.evidence.id)) for case in report.cases),
        fault_matrix=fault_matrix(report.cases),
    )
    value: dict[str, Any] = encode(document)
    RUN_SCHEMA_FILE.check(value)
    return value


def run_text(report: RunReport) -> str:
    """The text of run.json; raises as :func:`run_value`."""
    return dump_json(run_value(report))


def _run_case(judged: JudgedCase, folder: str) -> RunCase:
    """One member of ``cases``: figures made here, and the members that have the same name in the evidence."""
    case = judged.evidence
    forward, back = case.interruption.forward, case.interruption.return_
    evidence = {item.name: getattr(case, item.name) for item in fields(case)}
    figures = {
        "verdict": judged.outcome,
        "duplicates": case.duplicates.total,
        "reordered": case.reordered.total,
        "interruption_ms": Milliseconds(forward.high_ms, back.high_ms),
        "unexplained": unexplained_packets(case),
        "reasons": judged.verdict.reasons,
        "skipped": case.skip_text,
        "duplicates_by_direction": case.duplicates,
        "reordered_by_direction": case.reordered,
        "interruption_range_ms": MillisecondRange(_range(forward), _range(back)),
        "interruption_frame_loss_ms": Milliseconds(forward.frame_loss_ms, back.frame_loss_ms),
        "budget_ms": case.budget.longest_pause_ms if case.budget else None,
        "control_run_interruption_ms": case.instrument.control_run_interruption_ms,
        "seconds": seconds_of(case),
        "folder": folder,
    }
    return RunCase(**{item.name: (evidence | figures)[item.name] for item in fields(RunCase)})


def _range(seen: Interruption) -> tuple[float, float] | None:
    return None if seen.low_ms is None or seen.high_ms is None else (seen.low_ms, seen.high_ms)


def record_begin(
    results: Path,
    policy: Policy,
    environment: Environment,
    command: str,
    baseline_ms: Mapping[str, float] | None = None,
) -> None:
    """Keep in ``unfinished.json`` by what a run is judged, which run.json has when it ends: the run may be killed.

    :param results: made by :func:`cprlib.report.results_folder.new_results_folder` in this process.
    :param baseline_ms: service interruption of each case in a saved run, by case id; kept in ``baseline.json``.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    begun = {"policy": policy, "environment": environment, "command": command}
    files.write_text(results / UNFINISHED, dump_json({**encode(ProcessId.own()), **begun}), mode=0o600)
    if baseline_ms is not None:
        files.write_text(results / BASELINE_FILE, dump_json(baseline_ms), mode=0o600)


def _read_run(results: Path) -> dict[str, Any]:
    """The members of run.json, else those that :func:`record_begin` wrote; none when neither can be read."""
    for name in (RUN_FILE, UNFINISHED):
        with contextlib.suppress(OSError, BadValue):
            return load_json(dict[str, Any], (results / name).read_bytes())
    return {}


def read_machine(results: Path) -> tuple[Environment, str] | None:
    """Machine and command line of a run, whatever the version of its run.json; None when they are not known.

    A report that is written again keeps them: the evidence does not have them.
    """
    try:
        value = _read_run(results)
        return decode(Environment, value["environment"]), decode(str, value.get("command", ""))
    except (KeyError, BadValue):
        return None


def read_policy(results: Path) -> Policy | None:
    """The policy by which a run was judged, or was to be; None when it is not known."""
    try:
        return decode(Policy, _read_run(results)["policy"])
    except (KeyError, BadValue):
        return None
