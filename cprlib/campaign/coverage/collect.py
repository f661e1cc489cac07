"""What the tests of a results folder ran: the counters that each case left, read with gcov."""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprlib.build.coverage import CoverageBuild
from cprlib.cleanup import temporary_folder
from cprlib.errors import CprlibError, EnvironmentFailure, InstrumentError
from cprlib.evidence.case import CASE_FILE, CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.files import numbered_folder
from cprlib.linux.cgroup import usable_cores
from cprlib.process import run
from cprlib.qemu.binary import file_digest
from cprlib.qemu.command_line import COUNTERS_FILE
from cprlib.qemu.start import COVERAGE_VARIABLE
from cprlib.report.results_folder import CASES

DUMP_VARIABLE = "CPRLIB_COVERAGE_DUMP"  # images/qemu/coverage/counters.c
EARLIER = "earlier-cases"  # counters and case.json of cases of earlier runs; not judged
STEP_SECONDS = 60.0
REFERENCE = re.compile(r"(?:\d+-)?(?:.*/)?(tests/functional/[^;]+)(?:;.*)?")

Place = tuple[str, int]  # file and line


@dataclass(frozen=True, slots=True)
class LineCounts:
    """What gcov reports of a line.

    :param count: how often it ran; :param branches: how often each branch that leaves it was taken.
    """

    count: int
    branches: tuple[int, ...] = ()

    def __add__(self, other: LineCounts) -> LineCounts:
        """Both; the branches of a line are the same in each reading of one build."""
        return LineCounts(self.count + other.count, tuple(map(sum, zip(self.branches, other.branches, strict=True))))


@dataclass(frozen=True, slots=True)
class CaseCounts:
    """What one case ran.

    :param test: as ``cprlib run`` takes it: ``tests/functional/test_x.py:Class.test_y``.
    :param passed: whether the case passed on the coverage build, or was skipped.
    :param lines: executable lines of the instrumented files.
    """

    test: str
    passed: bool
    lines: Mapping[Place, LineCounts]


def collect(build: CoverageBuild, folder: Path) -> tuple[CaseCounts, ...]:
    """Read the counters of all cases.

    :param folder: results folder of a run on this build.
    :raises InstrumentError: no case has counters, or they are of another build.
    """
    cases = _counted_cases(folder)
    if not cases:
        raise InstrumentError("collect coverage", f"no case in {folder} has counters", "run the suite on this build")
    digest = file_digest(build.qemu.path)
    with temporary_folder("cprlib-gcov-") as top, ThreadPoolExecutor(usable_cores()) as pool:
        numbered = [(top / str(number), case) for number, case in enumerate(cases)]
        return tuple(pool.map(lambda item: _read_case(build, digest, *item), numbered))


def _counted_cases(folder: Path) -> list[Path]:
    """The folders of the cases with counters: of the run, and of the earlier runs that were added to it."""
    return [file.parent for name in (CASES, EARLIER) for file in sorted((folder / name).glob(f"*/{COUNTERS_FILE}"))]


def add_cases(results: Path, earlier: Sequence[Path]) -> None:
    """Copy what :func:`collect` reads of earlier runs into the folder of another one.

    :raises EnvironmentFailure: a file cannot be copied.
    """
    for case in (case for folder in earlier for case in _counted_cases(folder)):
        try:
            copy = numbered_folder(results / EARLIER, case.name)
            for name in (CASE_FILE, COUNTERS_FILE):
                if (case / name).exists():
                    shutil.copyfile(case / name, copy / name)
        except OSError as error:
            raise EnvironmentFailure(f"copy the counters of {case}", str(error)) from error


def reference_of(test: str) -> str:
    """A test as ``cprlib run`` takes it: ``tests/functional/test_x.py:Class.test_y``.

    :param test: Avocado's name: ``12-/somewhere/tests/functional/test_x.py:Class.test_y;run-3f2a``.
    """
    found = REFERENCE.fullmatch(test)
    return found[1] if found else test


def _read_case(build: CoverageBuild, digest: str, scratch: Path, case: Path) -> CaseCounts:
    try:
        evidence = CaseEvidence.read(case)
    except InstrumentError:
        return CaseCounts(case.name, False, read_gcov(build, scratch, case / COUNTERS_FILE))
    if evidence.source and evidence.source.sha256 != digest:
        happened = f"{evidence.source.path} is not {build.qemu.path}"
        raise InstrumentError(f"read the coverage of {case}", happened, "run the suite on the present build")
    lines = read_gcov(build, scratch, case / COUNTERS_FILE)
    return CaseCounts(reference_of(evidence.test), evidence.concluded in (Outcome.PASS, Outcome.SKIP), lines)


def read_gcov(build: CoverageBuild, scratch: Path, counters: Path) -> dict[Place, LineCounts]:
    """The executable lines of the instrumented files with the counts of one file of counters.

    :param scratch: a folder to make.
    :raises InstrumentError: the file is of another build, or gcov cannot read it.
    """
    scratch.mkdir()
    for notes in build.folder.glob("*.gcno"):
        (scratch / notes.name).symlink_to(notes)
    environment = {**os.environ, COVERAGE_VARIABLE: str(counters), DUMP_VARIABLE: str(scratch)}
    try:
        run([str(build.qemu.path)], purpose="read coverage counters", seconds=STEP_SECONDS, env=environment)
        data = sorted(path.name for path in scratch.glob("*.gcda"))
        command = ["gcov", "--branch-probabilities", "--json-format", "--stdout", *data]
        output = run(command, purpose="read coverage with gcov", seconds=STEP_SECONDS, cwd=scratch)
        return parse_gcov(output, build.sources)
    except CprlibError as error:
        raise InstrumentError(f"read {counters}", error.happened, error.advice, details=error.details) from error


def parse_gcov(output: str, files: Collection[str]) -> dict[Place, LineCounts]:
    """Lines of gcov's JSON documents, one document a line (gcov(1), ``--json-format``).

    :param files: to read, relative to QEMU's source. A header has other branches in each file that includes it.
    :returns: by file relative to QEMU's source; a line that several functions share has the sum.
    :raises InstrumentError: it has another form.
    """
    found: dict[Place, LineCounts] = {}
    try:
        for line in output.splitlines():
            for file in json.loads(line)["files"] if line.strip() else ():
                for place, counts in _lines(file, files):
                    found[place] = found[place] + counts if place in found else counts
    except (ValueError, KeyError, TypeError) as error:
        happened = f"{type(error).__name__}: {error}"
        raise InstrumentError("read the output of gcov", happened, "report this as a bug") from error
    return found


def _lines(file: Mapping[str, Any], files: Collection[str]) -> Iterator[tuple[Place, LineCounts]]:
    """The lines of one file: branches of a line are those of all functions that have code there."""
    name = str(file["file"]).removeprefix("../source/")
    if name not in files:
        return
    by_line: dict[int, list[Any]] = collections.defaultdict(list)
    for line in file["lines"]:
        by_line[int(line["line_number"])].append(line)
    for number, parts in by_line.items():
        branches = tuple(int(branch["count"]) for part in parts for branch in part["branches"])
        yield (name, number), LineCounts(sum(int(part["count"]) for part in parts), branches)
