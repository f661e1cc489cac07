"""The records that mutation.json holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cprlib.campaign.mutation.score import BuildResults, MutationReport, Reason
from cprlib.campaign.outcome import JobOutcome
from cprlib.evidence.records import Outcome
from cprlib.report.environment import Environment
from cprlib.report.formatting import utc
from cprlib.report.schema import SchemaFile

SCHEMA: Final = 2  # of mutation.json


@dataclass(frozen=True, slots=True)
class TestEntry:
    """A test of the run."""

    id: str
    reference: str


@dataclass(frozen=True, slots=True)
class QemuEntry:
    """A binary; both empty when it was not built."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class KillEntry:
    """A test that failed on the build."""

    test: str
    seconds: float | None
    message: str


@dataclass(frozen=True, slots=True)
class ResultEntry:
    """The result of one test on one build.

    :param message_matches: whether the mutant's message was found; None on the good build.
    :param folder: of the evidence, below the session's folder.
    :param inputs_changed: an input was edited while the test ran.
    """

    test: str
    outcome: JobOutcome
    must_kill: bool
    message_matches: bool | None
    seconds: float | None
    messages: tuple[str, ...]
    folder: str
    lab_lost: int
    inputs_changed: bool


@dataclass(frozen=True, slots=True)
class BuildEntry:
    """A build with its results.

    :param kind: ``good`` or ``mutant``.
    :param run: of the good build, from 1; None for a mutant.
    :param verdict: pass for a killed mutant, or a good build without alarm.
    """

    kind: str
    name: str
    run: int | None
    verdict: Outcome
    reasons: tuple[Reason, ...]
    title: str
    description: str
    leaves_out: tuple[str, ...]
    patches: tuple[str, ...]
    must_be_killed_by: tuple[str, ...]
    message: str
    qemu: QemuEntry
    killed_by: tuple[KillEntry, ...]
    not_run: tuple[str, ...]
    results: tuple[ResultEntry, ...]


@dataclass(frozen=True, slots=True)
class MutationDocument:
    """What mutation.json holds.

    :param schema: of this file, :data:`SCHEMA`.
    :param mutants, killed: the mutation score is ``killed`` of ``mutants``.
    :param tests_per_mutant: ``all`` or ``killed_by``.
    :param engine: of the lab; None when run natively.
    :param lab_lost: labs that died and were replaced.
    """

    schema: Literal[2]
    verdict: Outcome
    exit_status: int
    mutants: int
    killed: int
    base: str
    tests_per_mutant: str
    engine: str | None
    command: str
    started: str | None
    finished: str | None
    environment: Environment
    lab_lost: int
    notes: tuple[str, ...]
    tests: tuple[TestEntry, ...]
    builds: tuple[BuildEntry, ...]


MUTATION_SCHEMA_FILE = SchemaFile("mutation", SCHEMA, MutationDocument)


def report_document(report: MutationReport) -> MutationDocument:
    """A report as mutation.json holds it."""
    return MutationDocument(
        schema=SCHEMA,
        verdict=report.outcome,
        exit_status=int(report.exit_status),
        mutants=len(report.mutants),
        killed=report.killed,
        base=report.base,
        tests_per_mutant="all" if report.whole else "killed_by",
        engine=report.engine or None,
        command=report.command,
        started=utc(report.started_ns),
        finished=utc(report.finished_ns),
        environment=report.environment,
        lab_lost=report.lab_lost,
        notes=report.notes,
        tests=tuple(TestEntry(name, reference) for name, reference in report.tests.items()),
        builds=tuple(map(_build_entry, report.builds)),
    )


def _build_entry(item: BuildResults) -> BuildEntry:
    mutant = item.build.mutant
    return BuildEntry(
        kind="mutant" if mutant else "good",
        name=item.build.name,
        run=None if mutant else item.build.run,
        verdict=item.outcome,
        reasons=item.reasons,
        title=mutant.subject if mutant else "",
        description=mutant.body if mutant else "",
        leaves_out=mutant.leaves_out if mutant else (),
        patches=tuple(path.name for path in mutant.patches) if mutant else (),
        must_be_killed_by=mutant.killed_by if mutant else (),
        message=mutant.message if mutant else "",
        qemu=QemuEntry(item.qemu, item.sha256),
        killed_by=tuple(KillEntry(found.test, found.judged.seconds, item.message(found)) for found in item.failed),
        not_run=tuple(test for test in item.planned if test not in item.results),
        results=tuple(
            ResultEntry(
                result.test,
                result.judged.outcome,
                item.build.must_kill(result.test),
                result.judged.matches(mutant.message) if mutant else None,
                result.judged.seconds,
                result.judged.messages,
                result.folder,
                result.lab_lost,
                result.changed,
            )
            for result in item.results.values()
        ),
    )
