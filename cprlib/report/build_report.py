"""From a results folder to its report: read the cases, judge them, write its files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cprlib import files
from cprlib.codec import BadValue, load_json
from cprlib.errors import InstrumentError
from cprlib.report.environment import Environment, describe_machine, join_environments
from cprlib.report.finding_groups import finding_groups
from cprlib.report.html import HTML_FILE, report_page
from cprlib.report.junit import junit_text, tap_text
from cprlib.report.matrix import MatrixRecord, points_of
from cprlib.report.patch_results import patch_results
from cprlib.report.read_results import AvocadoTest, read_cases, read_jobs
from cprlib.report.results_folder import BASELINE_FILE, require_results, unfinished_reason
from cprlib.report.run_json import RUN_FILE, read_machine, run_text
from cprlib.report.run_report import RunReport
from cprlib.report.summary import markdown_summary
from cprlib.verdict.findings import combine, inconclusive
from cprlib.verdict.judge import JudgedCase, judge, judge_run
from cprlib.verdict.policy import Policy

_FILES: Mapping[str, Callable[[RunReport], str]] = {
    RUN_FILE: run_text,
    HTML_FILE: report_page,
    "report.md": markdown_summary,
    "junit.xml": junit_text,
    "results.tap": tap_text,
}


def judge_cases(
    results: Path,
    policy: Policy,
    tests: Sequence[AvocadoTest] | None = None,
    *,
    baseline_ms: Mapping[str, float] | None = None,
) -> tuple[JudgedCase, ...]:
    """Gather and judge the cases of a results folder, without a verdict on the run; write nothing.

    :param tests: of the folder's Avocado jobs, where they have been read.
    :param baseline_ms: service interruption of each case in a saved run, by case id.
    :raises UsageError: there is no such folder.
    """
    require_results(results, "report on")
    baselines = baseline_ms or {}

    def baseline_of(case: str) -> float | None:
        """Of the case of that id; the second run ``x-2`` of a case ``x`` has the baseline of ``x``."""
        return baselines.get(case, baselines.get(re.sub(r"-\d+\Z", "", case)))

    cases = read_cases(results, read_jobs(results).tests if tests is None else tests)
    return tuple(judge(case, policy, baseline_ms=baseline_of(case.id)) for case in cases)


def judge_results(
    results: Path,
    policy: Policy,
    *,
    environment: Environment | None = None,
    command: str = "",
) -> RunReport:
    """Gather and judge the cases of a results folder, compared with the baseline of the run; write nothing.

    :param environment: of the run. When None: from an earlier report in the folder, from the beginning of its run, from
        its matrix record, or this machine.
    :param command: command line of the run; when empty: from an earlier report, or from the beginning of the run.
    :raises UsageError: there is no such folder.
    """
    earlier = read_machine(results) if environment is None else None
    if earlier:
        environment, command = earlier[0], command or earlier[1]
    job = read_jobs(results)
    cases = judge_cases(results, policy, job.tests, baseline_ms=_read_baseline(results))
    verdict = judge_run(cases, policy)
    problems = [*filter(None, [unfinished_reason(results)]), *job.problems]
    matrix = None
    try:
        matrix = MatrixRecord.read(results)
    except InstrumentError as error:
        problems.append(error.one_line())
    if matrix:
        problems += matrix.problems(points_of(case.evidence for case in cases))
    if problems:
        verdict = combine((*verdict.findings, *(inconclusive("run", text) for text in problems)), "no case finished")
    if environment is None:
        machines = [shard.environment for shard in matrix.shards] if matrix else []
        environment = join_environments(machines) if machines else describe_machine()
    groups, patches = finding_groups(cases, command), patch_results(cases)
    return RunReport(results, verdict, cases, policy, environment, command, tuple(problems), groups, patches)


def _read_baseline(results: Path) -> Mapping[str, float]:
    with contextlib.suppress(OSError, BadValue):
        return load_json(dict[str, float], (results / BASELINE_FILE).read_bytes())
    return {}


def build_report(
    results: Path, policy: Policy, *, environment: Environment | None = None, command: str = ""
) -> RunReport:
    """Judge the cases of a results folder and write the files of its report.

    Parameters and errors as for :func:`judge_results` and :func:`write_report`.
    """
    report = judge_results(results, policy, environment=environment, command=command)
    write_report(report)
    return report


def write_report(report: RunReport) -> None:
    """Write ``run.json``, ``report.html``, ``report.md``, ``junit.xml`` and ``results.tap`` into the folder of a run.

    :raises EnvironmentFailure: the folder cannot be written.
    :raises InstrumentError: a member of run.json does not fit its type.
    """
    for name, text_of in _FILES.items():
        files.write_text(report.folder / name, text_of(report), mode=0o600)
