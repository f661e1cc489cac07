"""A job: one test of the functional suite, run by an Avocado process of its own.

A job's folder is a results folder as ``cprlib run`` makes them::

    cases/<id>/           evidence of the test's cases
    avocado/job-*/        Avocado's job: results.json, the test's log, lab.json, what lost labs left
    avocado.log           output of Avocado
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.cleanup import temporary_folder
from cprlib.errors import DeadlineExceeded, EnvironmentFailure, ProcessFailed, UsageError
from cprlib.files import project_folder
from cprlib.lab.avocado_run import avocado_environment
from cprlib.lab.job_results import collect_cases
from cprlib.process import run
from cprlib.report.results_folder import case_id

INSTRUMENTED = "avocado-instrumented"
RAW_FILES = ("*.pcap", "reflector.json")


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
    with temporary_folder("cprlib-tests-") as temporary:
        listing = Path(temporary, "tests.json")
        command = [sys.executable, "-m", "cprlib.lab.avocado_main", "--show=none", "list", "--json", str(listing)]
        command += [str(top), *(word for tag in tags for word in ("-t", tag))]
        try:
            run(command, purpose="list the suite's tests", seconds=120, env=avocado_environment())
            value = json.loads(listing.read_text(encoding="utf-8"))
        except (ProcessFailed, DeadlineExceeded, OSError, ValueError) as error:
            raise EnvironmentFailure("list the suite's tests", str(error), "try `avocado list` on it") from error
    references = [str(item["Test"]) for item in value if item.get("Type") == INSTRUMENTED]
    if tags and not references:
        raise UsageError("list the suite's tests", f"none has tag {', '.join(tags)}", "docs/tests.md lists the tags")
    return suite_tests(references, top)


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


def find_tests(names: Iterable[str], tests: Sequence[SuiteTest], tried: str, advice: str) -> tuple[SuiteTest, ...]:
    """Tests by the ids of their cases, each once.

    :param tried, advice: for the message.
    :raises UsageError: no test has that id.
    """
    by_id = {test.id: test for test in tests}
    for name in names:
        if name not in by_id:
            raise UsageError(tried, f"the suite has no test with the case id {name!r}", advice)
    return tuple(by_id[name] for name in dict.fromkeys(names))


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
    """Remove from a job's cases all but their records: what a verdict needs, and QEMU's last words."""
    for path in folder.glob("cases/*/*"):
        if path.is_file() and not path.match("case.json") and not path.match("*.txt") and not path.match("stderr-*"):
            path.unlink()


def compress(folder: Path) -> None:
    """Compress the raw data of a job's cases: a session has a thousand jobs, and few are ever looked into."""
    for path in [path for name in RAW_FILES for path in folder.glob(f"cases/*/{name}")]:
        with path.open("rb") as raw, gzip.open(path.with_name(f"{path.name}.gz"), "wb", compresslevel=3) as packed:
            shutil.copyfileobj(raw, packed)
        path.unlink()
