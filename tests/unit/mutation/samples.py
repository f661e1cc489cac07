"""Sample reports and jobs for the tests of cprlib prove."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.build.mutants import Mutant
from cprlib.campaign.job import SuiteTest
from cprlib.campaign.mutation.plan import Build, MutationRequest
from cprlib.campaign.mutation.score import (
    BuildResults,
    MutationReport,
    UsedBinary,
    build_results,
    make_report,
    make_result,
)
from cprlib.campaign.outcome import JobOutcome, JudgedJob, Policies
from cprlib.evidence.case import CaseEvidence
from cprlib.report.environment import Environment
from cprlib.verdict.policy_file import load_policy

HOSTILE = "<script>alert('x')</script>\x1b[31m\u202eexe|`[a](b)\n# head"
POLICIES = Policies(load_policy("default"), load_policy("strict"))


def mutant(name: str = "one-packet-lost", **changes: object) -> Mutant:
    """A mutant that test-a has to kill by its lost packet."""
    made = Mutant(
        name=name,
        group="traffic",
        subject="one packet is lost",
        body="A packet is read and forgotten.",
        leaves_out=("0009",),
        patches=(),
        killed_by=("test-a",),
        message="packets? lost",
        bases=("10.0",),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def judged(outcome: JobOutcome, *messages: str, seconds: float | None = 12.3) -> JudgedJob:
    """A judged job."""
    return JudgedJob(outcome, messages, seconds)


def results(
    build: Build, judged_jobs: Mapping[str, JudgedJob], planned: Sequence[str] | None = None, problem: str = ""
) -> BuildResults:
    """Results of a build; the planned tests are those with a result unless given."""
    made = [make_result(build, test, job, f"results/{build.folder}/{test}") for test, job in judged_jobs.items()]
    qemu = UsedBinary() if problem else UsedBinary("/x/qemu", "ab12")
    return build_results(build, list(judged_jobs) if planned is None else planned, made, qemu, problem)


GOOD = results(Build(), {"test-a": judged(JobOutcome.PASSED), "test-b": judged(JobOutcome.PASSED)})
KILLED = results(
    Build(mutant()),
    {"test-a": judged(JobOutcome.FAILED, "loss: 2 packets lost forward"), "test-b": judged(JobOutcome.PASSED)},
)


def report(*builds: BuildResults, tests: Sequence[str] = ("test-a", "test-b"), **more: object) -> MutationReport:
    """A report on some builds; the good build and a killed mutant unless given."""
    environment = Environment(mode="lab", engine="uml", kernel="6.12", python="3.13.1", cprlib="0.1.0")
    made = make_report(
        builds or (GOOD, KILLED),
        [SuiteTest(test, f"/x/test_x.py:X.{test}") for test in tests],
        MutationRequest("10.0", engine="uml"),
        environment,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def put_job(
    folder: Path,
    status: str = "PASS",
    reason: str = "",
    *cases: CaseEvidence,
    seconds: float = 12.5,
) -> Path:
    """A job's folder as a run leaves it."""
    name = "/x/tests/functional/test_x.py:X.test_a"
    job = folder / "avocado" / "job-2026-11-23T07.47-df99fb8"
    job.mkdir(parents=True)
    test = {"id": f"1-{name}", "name": name, "status": status, "fail_reason": reason, "time_elapsed": seconds}
    (job / "results.json").write_text(json.dumps({"tests": [test], "total": 1}))
    (folder / "cases").mkdir()
    for case in cases:
        place = folder / "cases" / case.id
        place.mkdir()
        replace(case, test=f"1-{name}").write(place)
    return folder
