"""Cheap commands of the documents, run as they are written, and the output that a reader relies on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.cli.main import COMMANDS, main
from cprlib.evidence.case import CaseEvidence
from cprlib.report.results_folder import publish
from cprlib.traffic.figures import PerDirection
from tests.unit.evidence.samples import good_case

PROGRAM = "import sys; from cprlib.cli.main import main; sys.exit(main())"


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``cprlib`` in a folder, with an empty cache."""
    environment = {**os.environ, "CPRLIB_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder with a run in results/latest."""
    write(tmp_path, "2026-01-01T00-00-00Z", good_case())
    return tmp_path


def write(top: Path, name: str, *cases: CaseEvidence) -> None:
    for case in cases:
        case.write(top / "results" / name / "cases" / case.id)
    publish(top / "results" / name)


def test_every_help_has_examples_and_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        output = capsys.readouterr().out
        assert "Examples:" in output, name
        assert "Exit status:" in output, name
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert "Start with `cprlib doctor`" in output
    assert "Exit status: 0 pass, 1 fail" in output


def test_doctor_chooses_and_explains(tmp_path: Path) -> None:
    done = run("doctor", "--json", folder=tmp_path)
    value = json.loads(done.stdout)
    assert value["mode"] in ("native", "lab")
    assert value["explanation"].startswith("Tests run ")
    assert done.returncode == (0 if value["usable"] else 4)


def test_build_list_names_the_variants(tmp_path: Path) -> None:
    done = run("build", "--list", folder=tmp_path)
    assert done.returncode == 0
    assert "without-0009-no-loss" in done.stdout
    assert not (tmp_path / "cache" / "store").exists(), "something was built"


def test_report_judges_the_latest_run(recorded: Path) -> None:
    done = run("report", folder=recorded)
    assert done.returncode == 0, done.stderr
    assert "verdict: PASS (1 case: 1 pass; policy default)" in done.stdout
    assert (recorded / "results" / "latest" / "report.html").exists()
    assert json.loads((recorded / "results" / "latest" / "run.json").read_text())["verdict"] == "pass"


def test_report_as_markdown_has_twenty_lines_at_most(recorded: Path) -> None:
    done = run("report", "--format", "md", folder=recorded)
    assert done.stdout.startswith("**✓ PASS**: 1 case: 1 pass\n")
    assert len(done.stdout.strip().splitlines()) <= 20


@pytest.mark.parametrize(
    ("change", "policy", "status"),
    [
        ({}, "default", 0),
        ({"loss": PerDirection(2, 0)}, "default", 1),
        ({"sent": 0}, "default", 3),
        ({}, "lenient", 2),
    ],
)
def test_exit_statuses_are_those_of_the_verdict(
    tmp_path: Path, change: dict[str, object], policy: str, status: int
) -> None:
    write(tmp_path, "2026-01-01T00-00-00Z", replace(good_case(), **change))  # type: ignore[arg-type]
    done = run("report", "--policy", policy, folder=tmp_path)
    assert done.returncode == status, done.stdout + done.stderr
    if status == 2:
        assert len(done.stderr.strip().splitlines()) == 1
