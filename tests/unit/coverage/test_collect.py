"""Counters of processes, also of killed ones, read with gcov."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.coverage import FLAGS, CoverageBuild
from cprlib.campaign.coverage.collect import LineCounts, collect, parse_gcov, read_gcov, reference_of
from cprlib.errors import InstrumentError
from cprlib.evidence.records import Outcome
from cprlib.files import project_folder
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import COUNTERS_FILE
from cprlib.qemu.start import COVERAGE_VARIABLE
from tests.unit.evidence.samples import good_case

PROGRAM = """\
#include <signal.h>
int main(int count, char **words)
{
    if (count > 1) {
        raise(SIGKILL);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> CoverageBuild:
    """A program with counters, built as QEMU is."""
    if not shutil.which("gcc") or not shutil.which("gcov"):
        pytest.skip("gcc or gcov is not installed")
    folder = tmp_path_factory.mktemp("build")
    runtime = project_folder() / "images" / "qemu" / "coverage"
    (folder / "program.c").write_text(PROGRAM)
    for command in (
        ["gcc", "-fPIE", *FLAGS, "-fprofile-filter-files=program", "-c", "program.c", "-o", "program.c.o"],
        ["gcc", "-fPIE", "-Wall", "-Werror", "-O2", "-c", str(runtime / "counters.c"), "-o", "counters.o"],
        ["gcc", "-pie", "program.c.o", "counters.o", f"-Wl,-T,{runtime / 'counters.ld'}", "-lgcov", "-o", "program"],
    ):
        subprocess.run(command, cwd=folder, check=True)
    return CoverageBuild(QemuBinary(folder / "program"), folder, (), {"program.c": ()})


def run(build: CoverageBuild, counters: Path, *words: str) -> int:
    environment: Mapping[str, str] = {**os.environ, COVERAGE_VARIABLE: str(counters)}
    return subprocess.run([build.qemu.path, *words], env=environment, check=False).returncode


def test_processes_share_counters_and_killed_ones_are_counted(build: CoverageBuild, tmp_path: Path) -> None:
    counters = tmp_path / COUNTERS_FILE
    assert [run(build, counters), run(build, counters, "kill"), run(build, counters)] == [0, -signal.SIGKILL, 0]
    lines = read_gcov(build, tmp_path / "scratch", counters)
    assert {place: counts.count for place, counts in lines.items() if place[1] in (4, 5, 7)} == {
        ("program.c", 4): 3,
        ("program.c", 5): 1,
        ("program.c", 7): 2,
    }
    assert sorted(lines["program.c", 4].branches) == [1, 2]


def test_program_runs_where_it_cannot_write_its_counters(build: CoverageBuild, tmp_path: Path) -> None:
    assert run(build, tmp_path / "missing" / COUNTERS_FILE) == 0


def test_counters_of_another_build_are_refused(build: CoverageBuild, tmp_path: Path) -> None:
    (tmp_path / COUNTERS_FILE).write_bytes(bytes(100))
    with pytest.raises(InstrumentError, match=COUNTERS_FILE):
        read_gcov(build, tmp_path / "scratch", tmp_path / COUNTERS_FILE)
    assert (tmp_path / COUNTERS_FILE).read_bytes() == bytes(100)


def test_results_without_counters_say_so(build: CoverageBuild, tmp_path: Path) -> None:
    with pytest.raises(InstrumentError, match="no case"):
        collect(build, tmp_path)


def test_skipped_case_is_no_case_that_did_not_pass(build: CoverageBuild, tmp_path: Path) -> None:
    for outcome in (Outcome.FAIL, Outcome.PASS, Outcome.SKIP):
        case = tmp_path / "cases" / outcome
        replace(good_case(outcome), source=None, concluded=outcome).write(case)
        run(build, case / COUNTERS_FILE)
    assert [case.passed for case in collect(build, tmp_path)] == [False, True, True]


def test_output_that_is_not_of_gcov_is_an_error() -> None:
    with pytest.raises(InstrumentError, match="gcov"):
        parse_gcov('{"files": [{"lines": 3}]}', ())


def test_header_with_other_branches_in_each_file_is_left_out() -> None:
    def document(file: str, *branches: int) -> str:
        line = {"line_number": 34, "count": 7, "branches": [{"count": count} for count in branches]}
        return json.dumps({"files": [{"file": file, "lines": [line]}]})

    output = "\n".join(
        [
            document("../source/net/tap.c", 3, 4),
            document("/source/include/qemu/lockable.h", 1, 2),
            document("/source/include/qemu/lockable.h", 1, 2, 3, 4),
        ]
    )
    assert parse_gcov(output, ["net/tap.c"]) == {("net/tap.c", 34): LineCounts(7, (3, 4))}


def test_reference_is_relative_to_the_project() -> None:
    assert reference_of("12-/a/b/tests/functional/test_x.py:X.test_y;run-10.0-3f2a") == (
        "tests/functional/test_x.py:X.test_y"
    )
    assert reference_of("something else") == "something else"
