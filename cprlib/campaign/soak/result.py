"""The records of a soak (cases, samples, sessions) and its verdict: of the cases, of the resources, and of both."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from cprlib import files
from cprlib.campaign.outcome import JobOutcome
from cprlib.campaign.soak.draw import Choices
from cprlib.campaign.soak.resources import RESOURCES, Resource
from cprlib.campaign.soak.trend import FEWEST_SAMPLES, Trend, trend
from cprlib.campaign.store import STORE_VERSION, Store, read_versioned
from cprlib.codec import dump_json, load_json
from cprlib.errors import EnvironmentFailure, ExitStatus, UsageError
from cprlib.evidence.records import Outcome
from cprlib.qemu.binary import QemuBinary
from cprlib.report.environment import Environment
from cprlib.report.run_report import EXIT_STATUS
from cprlib.verdict.findings import Finding, Verdict, combine, failed, inconclusive, passed
from cprlib.words import counted

SOAK_FILE = "soak.json"
CASES_FILE = "cases.jsonl"  # while a soak runs: its cases that have ended, one a line
SOAK_SCHEMA: Final = 2
KEPT = "kept"


@dataclass(frozen=True, slots=True)
class SoakRequest:
    """What a soak covers; it stays when the soak is resumed.

    :param hours: of the first session.
    :param tests: ids, in the order that draws refer to.
    :param engine: of the lab; None to run natively.
    :param qemu: the user's; None for the project's own on :attr:`base`.
    :param keep, keep_mib: limits of the folders of cases that did not pass: how many, and their size together.
    """

    seed: int
    hours: float
    tests: tuple[str, ...]
    choices: Choices = field(default_factory=Choices)
    engine: str | None = None
    base: str = ""
    qemu: QemuBinary | None = None
    policy: str = "default"
    tags: tuple[str, ...] = ()
    keep: int = 20
    keep_mib: int = 1024
    command: str = ""
    started_ns: int = 0
    version: int = STORE_VERSION


STORE = Store("soak", SoakRequest)


@dataclass(frozen=True, slots=True)
class SoakSession:
    """One process's part of a soak; a resumed soak has several.

    :param started_ns: CLOCK_REALTIME.
    :param seconds: that it ran.
    :param qemu_sha256: of the QEMU under test.
    :param workers: cases at once.
    """

    started_ns: int
    seconds: float = 0.0
    qemu_sha256: str = ""
    workers: int = 1


@dataclass(frozen=True, slots=True)
class SoakCase:
    """A case that ended.

    :param number: of its draw.
    :param session: in which it ran, from 0.
    :param messages: why it did not pass, at most a few lines.
    :param started_ns: CLOCK_REALTIME.
    :param seconds: from the start of Avocado to its end.
    :param lab_lost: labs that died under it and were replaced.
    :param left: its processes that still existed after its end.
    """

    number: int
    session: int
    test: str
    parameters: Mapping[str, str]
    outcome: JobOutcome
    messages: tuple[str, ...] = ()
    started_ns: int = 0
    seconds: float = 0.0
    lab_lost: int = 0
    left: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Of its evidence, below the soak's folder, where that is kept."""
        return f"{KEPT}/{self.number:06d}-{self.test}"

    @property
    def worst(self) -> JobOutcome:
        """Its outcome; a case that left a process behind failed."""
        return JobOutcome.FAILED if self.left else self.outcome


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """The harness at rest: no case runs.

    :param at_s: seconds of work, earlier sessions included.
    :param cases: ended so far.
    :param values: of each resource (:data:`cprlib.campaign.soak.resources.RESOURCES`) in its unit; None where it could
        not be read.
    """

    session: int
    at_s: float
    cases: int
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class SoakHistory:
    """All sessions so far; the part of soak.json that a resumed soak continues."""

    sessions: tuple[SoakSession, ...] = ()
    samples: tuple[ResourceSample, ...] = ()
    cases: tuple[SoakCase, ...] = ()

    @property
    def seconds(self) -> float:
        return sum(session.seconds for session in self.sessions)


def write_cases(folder: Path, history: SoakHistory) -> None:
    """Write :data:`CASES_FILE` with the cases so far.

    :raises EnvironmentFailure: the folder cannot be written or the disk is full.
    """
    files.write_text(folder / CASES_FILE, "".join(dump_json(case, indent=None) for case in history.cases), mode=0o600)


def append_case(folder: Path, case: SoakCase) -> None:
    """Add a line to :data:`CASES_FILE`.

    :raises EnvironmentFailure: the folder cannot be written or the disk is full.
    """
    path = folder / CASES_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as stream:
            stream.write(dump_json(case, indent=None).encode())
    except OSError as error:
        raise EnvironmentFailure(f"write {path}", str(error), "free some space") from error


def read_soak(folder: Path) -> SoakHistory:
    """The history in soak.json, with the cases of a soak that was killed; empty before the first sample.

    :raises UsageError: a file is broken, or of another version of this program.
    """
    path = folder / SOAK_FILE
    if not path.exists():
        return SoakHistory()
    try:
        history = read_versioned(SoakHistory, path, SOAK_SCHEMA, "schema")
        path = folder / CASES_FILE
        if not path.exists():  # the soak has ended
            return history
        lines = path.read_bytes().split(b"\n")[:-1]  # one without its end was cut off
        cases = tuple(load_json(SoakCase, line) for line in lines)
    except (OSError, ValueError) as error:
        raise UsageError(f"read {path}", str(error), "start cprlib soak without --resume") from error
    *before, last = history.sessions
    ends = [(case.started_ns - last.started_ns) / 1e9 + case.seconds for case in cases if case.session == len(before)]
    last = replace(last, seconds=round(max([last.seconds, *ends]), 3))
    return replace(history, sessions=(*before, last), cases=cases)


@dataclass(frozen=True)
class SoakResult:
    """A soak, running or ended.

    :param folder: of the soak.
    :param state: ``running``, ``interrupted`` or ``ended``.
    :param command: that began or resumed it last.
    """

    folder: Path
    request: SoakRequest
    history: SoakHistory
    environment: Environment
    state: str = "running"
    command: str = ""
    finished_ns: int | None = None

    @cached_property
    def trends(self) -> Mapping[str, Trend]:
        workers = max((session.workers for session in self.history.sessions), default=1)
        return {item.name: trend(item.with_workers(workers), self.series(item)) for item in RESOURCES}

    def series(self, resource: Resource) -> list[list[tuple[float, float]]]:
        """A resource's samples as (seconds, value) for each session; a lasting resource has one series."""
        sessions: dict[int, list[tuple[float, float]]] = {}
        for sample in self.history.samples:
            value = sample.values.get(resource.name)
            if value is not None:
                sessions.setdefault(0 if resource.lasting else sample.session, []).append((sample.at_s, value))
        return list(sessions.values())

    @cached_property
    def counts(self) -> Mapping[JobOutcome, int]:
        found = Counter(case.worst for case in self.history.cases)
        return {outcome: found[outcome] for outcome in JobOutcome}

    @cached_property
    def cases_verdict(self) -> Verdict:
        return combine(self._case_findings(), "no case ran to its end")

    @cached_property
    def resources_verdict(self) -> Verdict:
        return combine(self._resource_findings(), "the harness was never sampled")

    @cached_property
    def verdict(self) -> Verdict:
        return combine((*self.cases_verdict.findings, *self.resources_verdict.findings), "nothing ran")

    @property
    def exit_status(self) -> ExitStatus:
        """0, 1 or 3."""
        return EXIT_STATUS[self.verdict.outcome]

    @property
    def sentence(self) -> str:
        """``31 cases in 4.0 min: 30 passed, 1 failed; resources flat``."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items() if count)
        resources = {
            Outcome.PASS: "resources flat",
            Outcome.FAIL: "a resource grows",
            Outcome.INCONCLUSIVE: "resources inconclusive",
        }[self.resources_verdict.outcome]
        total = len(self.history.cases)
        cases = f"{counted(total, 'case')} in {self.history.seconds / 60:.1f} min"
        return f"{cases}: {counts or 'none'}; {resources}"

    def _case_findings(self) -> Iterator[Finding]:
        passes = 0
        for case in self.history.cases:
            about = f"case {case.number}, {case.test}"
            text = case.messages[0] if case.messages else "no reason given"
            if case.left:
                yield failed(about, f"it left {counted(len(case.left), 'process')} behind: {case.left[0]}")
            match case.outcome:
                case JobOutcome.FAILED:
                    yield failed(about, text)
                case JobOutcome.CRASHED:
                    yield inconclusive(about, f"crashed: {text}")
                case JobOutcome.INCONCLUSIVE:
                    yield inconclusive(about, text)
                case JobOutcome.PASSED:
                    passes += not case.left
                case JobOutcome.SKIPPED:
                    yield Finding(Outcome.SKIP, about, text)
        if passes:
            yield passed("cases", f"{passes} passed")

    def _resource_findings(self) -> Iterator[Finding]:
        findings = [resource_finding(found) for found in self.trends.values()]
        if any(finding.outcome != Outcome.INCONCLUSIVE for finding in findings):
            yield from findings
            return
        yield _too_few("resources", max(found.samples for found in self.trends.values()))


def _too_few(about: str, samples: int) -> Finding:
    return inconclusive(about, f"{samples} samples after the warm-up, {FEWEST_SAMPLES} are needed: soak longer")


def resource_finding(found: Trend) -> Finding:
    if found.per_hour is None or found.growth is None or found.p is None:
        return _too_few(found.name, found.samples)
    figures = (
        f"{found.first:,.1f} to {found.last:,.1f} {found.unit}, {found.per_hour:+,.2f} per hour, "
        f"{found.growth:+,.2f} over all samples (p {found.p:.2g}, {found.samples} samples)"
    )
    if found.verdict == Outcome.FAIL:
        return failed(found.name, f"it grows: {figures}; the limit is {found.limit:g} {found.unit}")
    if found.verdict == Outcome.INCONCLUSIVE:
        few = f"too few samples, {FEWEST_SAMPLES} are needed" if found.samples < FEWEST_SAMPLES else "it may grow"
        return inconclusive(found.name, f"{few}: {figures}; soak longer")
    return passed(found.name, f"flat: {figures}")
