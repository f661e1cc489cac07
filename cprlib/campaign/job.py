"""A job: one test of the functional suite, run by an Avocado process of its own.

A job's folder is a results folder as ``cprlib run`` makes them::

    cases/<id>/           evidence of the test's cases
    avocado/job-*/        Avocado's job: results.json, the test's log, lab.json, what lost labs left
    avocado.log           output of Avocado
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cprlib.cleanup import temporary_folder
from cprlib.errors import DeadlineExceeded, EnvironmentFailure, ProcessFailed, UsageError
from cprlib.files import project_folder
from cprlib.lab.avocado_run import avocado_environment
from cprlib.lab.job_results import collect_cases
from cprlib.process import run
from cprlib.report.results_folder import case_id
from cprlib.verdict.policy import matches

INSTRUMENTED = "avocado-instrumented"
RAW_FILES = ("*.pcap", "reflector.json")
RECORDS = ("case.json", "*.txt", "stderr-*", "reached-*.bin")
CASE_ADVICE = "give a case id from docs/tests.md, e.g. chain-of-updates-loses-nothing"


@dataclass(frozen=True, slots=True)
class SuiteTest:
    """One test of the functional suite.

    :param id: of its case: the method's name without ``test_``, with dashes.
    :param reference: as Avocado takes it: ``/.../test_cpr_tap.py:CprTap.test_update_with_tap_1_queue``.
    """

    id: str
    reference: str

    @property
    def file(self) -> Path:
        return Path(self.reference.partition(":")[0])


def list_tests(folder: Path | None = None, tags: Sequence[str] = ()) -> tuple[SuiteTest, ...]:
    """The tests of a folder in Avocado's order; the project's functional suite when None.

    :param tags: only tests with one of these, as ``-t`` of Avocado takes them.
    :raises UsageError: no test, or two with one id.
    :raises EnvironmentFailure: Avocado cannot list them.
    """
    top = folder or project_folder() / "tests" / "functional"
    return suite_tests(_list_references([str(top)], tags), top)


def require_tests(references: Sequence[str], tags: Sequence[str] = ()) -> None:
    """Check that there are tests to run, before anything is built.

    :param references: as Avocado takes them: a file or folder, or ``FILE:PATTERN``; the whole suite when empty.
    :param tags: as in :func:`list_tests`.
    :raises UsageError: a reference names no test, or no test has the tags.
    :raises EnvironmentFailure: Avocado cannot list them.
    """
    suite = str(project_folder() / "tests" / "functional")
    files = dict.fromkeys(reference.partition(":")[0] for reference in references or [suite])
    known = _list_references(list(files)) if references else []
    for reference in references:
        if not any(_names(reference, test) for test in known):
            raise UsageError(f"run {reference}", "it names no test", f"`avocado list {reference.partition(':')[0]}`")
    if tags:
        _list_references(references or [suite], tags)


def _names(reference: str, test: str) -> bool:
    """Whether Avocado runs a test for a reference; the part behind the colon is a regular expression."""
    path, _, pattern = reference.partition(":")
    file, _, name = test.partition(":")
    try:
        return Path(file).is_relative_to(path) and re.search(pattern, name) is not None
    except re.error:
        return False


def _list_references(references: Sequence[str], tags: Sequence[str] = ()) -> list[str]:
    """The tests of references in Avocado's order; errors as of :func:`require_tests`, which says more of them."""
    with temporary_folder("cprlib-tests-") as temporary:
        listing = Path(temporary, "tests.json")
        command = [sys.executable, "-m", "cprlib.lab.avocado_main", "--show=none", "list", "--json", str(listing)]
        command += [*references, *(word for tag in tags for word in ("-t", tag))]
        try:
            run(command, purpose="list the suite's tests", seconds=120, env=avocado_environment())
            value = json.loads(listing.read_text(encoding="utf-8"))
        except (ProcessFailed, DeadlineExceeded, OSError, ValueError) as error:
            raise EnvironmentFailure("list the suite's tests", str(error), "try `avocado list` on it") from error
    tests = [str(item["Test"]) for item in value if item.get("Type") == INSTRUMENTED]
    if tags and not tests:
        raise UsageError("list the suite's tests", f"none has tag {', '.join(tags)}", "docs/tests.md lists the tags")
    return tests


def suite_tests(references: Iterable[str], top: Path) -> tuple[SuiteTest, ...]:
    """Tests from Avocado's references, each with the id of its case.

    :param top: the folder that was listed, for messages.
    :raises UsageError: no test, or two with one id.
    """
    tests: dict[str, SuiteTest] = {}
    for reference in references:
        path, _, name = reference.partition(":")
        found = SuiteTest(case_id(name), f"{Path(path).resolve()}:{name}")
        if found.id in tests:
            first = tests[found.id].reference
            raise UsageError(
                "list the suite's tests", f"{first} and {found.reference} have the same id", "rename one of them"
            )
        tests[found.id] = found
    if not tests:
        raise UsageError("list the suite's tests", f"no test in {top}", "`avocado list` says why a file has none")
    return tuple(tests.values())


def find_tests(
    names: Iterable[str], tests: Sequence[SuiteTest], tried: str, advice: str = CASE_ADVICE
) -> tuple[SuiteTest, ...]:
    """Tests by the ids of their cases, each once.

    :param tried, advice: for the message.
    :raises UsageError: no test has that id.
    """
    by_id = {test.id: test for test in tests}
    for name in names:
        if name not in by_id:
            raise UsageError(tried, f"the suite has no test with the case id {name!r}", advice)
    return tuple(by_id[name] for name in dict.fromkeys(names))


def choose_names(names: Sequence[str], patterns: Sequence[str], what: str, of: str, advice: str) -> set[str]:
    """The names that match one of the patterns (``fnmatch``); all of them without patterns.

    :param what, of, advice: for the message: ``point``, ``matrix push``.
    :raises UsageError: a pattern matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"choose {what}s {pattern!r} of {of}", f"no {what} matches", advice)
    return {name for name in names if not patterns or matches(name, patterns)}


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A job that has ended.

    :param started_ns: start of Avocado, CLOCK_REALTIME.
    :param seconds: from then to the end of Avocado.
    :param lab_lost: labs that died under the test and were replaced.
    """

    folder: Path
    started_ns: int
    seconds: float
    lab_lost: int


def gather_evidence(folder: Path) -> int:
    """Move a job's evidence to the places of a results folder; without any the judge reports the missing one.

    :returns: number of labs that died under the test and were replaced.
    """
    try:
        lost = collect_cases(folder)
    except EnvironmentFailure:
        return 0
    for link in (folder / "avocado").glob("latest"):
        link.unlink()  # it holds the temporary folder's name
    return lost


def keep_records(folder: Path) -> None:
    """Remove from a job's cases all but their records: what verdict and score need, and QEMU's last words."""
    for path in folder.glob("cases/*/*"):
        if path.is_file() and not any(path.match(name) for name in RECORDS):
            path.unlink()


def compress(folder: Path) -> None:
    """Compress the raw data of a job's cases: a session has a thousand jobs, and few are ever looked into."""
    for path in [path for name in RAW_FILES for path in folder.glob(f"cases/*/{name}")]:
        with path.open("rb") as raw, gzip.open(path.with_name(f"{path.name}.gz"), "wb", compresslevel=3) as packed:
            shutil.copyfileobj(raw, packed)
        path.unlink()
