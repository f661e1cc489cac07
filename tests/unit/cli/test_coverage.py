"""``cprlib coverage --from`` reads earlier runs: it needs no guest, no lab, and describes where they ran."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cprlib.cli.main import main
from cprlib.errors import EnvironmentFailure, ExitStatus
from cprlib.qemu.command_line import COUNTERS_FILE
from cprlib.report.build_report import build_report
from cprlib.report.environment import Environment
from cprlib.verdict.policy_file import load_policy
from tests.unit.compare.samples import ASSETS
from tests.unit.coverage.samples import BUILD, CASES, ONE, REASON, TWO
from tests.unit.evidence.samples import good_case


def test_interrupted_run_is_described_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def describe(engine: str | None, *, lab_kernel: Path | None, accelerator: str) -> Environment:
        print(engine, lab_kernel, accelerator)
        raise KeyboardInterrupt

    monkeypatch.setattr("cprlib.build.assets.build_assets", lambda *_, **__: ASSETS)
    monkeypatch.setattr("cprlib.lab.doctor.choose_engine", lambda *_: None)
    monkeypatch.setattr("cprlib.build.coverage.build_coverage", lambda *_: BUILD)
    monkeypatch.setattr("cprlib.campaign.coverage.make_report.load_reasons", lambda _base: ())
    monkeypatch.setattr("cprlib.report.environment.describe_run", describe)
    arguments = ["--base", "10.2", "-p", "accelerator=tcg", "--out", str(tmp_path)]
    assert main(["coverage", *arguments]) == ExitStatus.INTERRUPTED
    printed = capsys.readouterr()
    assert printed.out == "None None tcg\n"
    assert f"cprlib coverage --base 10.2 --from {tmp_path}" in printed.err


def test_suite_whose_counters_cannot_be_read_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise EnvironmentFailure("run gcov", "no space left")

    monkeypatch.setattr("cprlib.cli.coverage._run_suite", lambda *_: Environment())
    monkeypatch.setattr("cprlib.lab.doctor.choose_engine", lambda *_: None)
    monkeypatch.setattr("cprlib.build.coverage.build_coverage", lambda *_: BUILD)
    monkeypatch.setattr("cprlib.campaign.coverage.collect.collect", fail)
    assert main(["coverage", "--out", str(tmp_path)]) == ExitStatus.ENVIRONMENT
    assert f"cprlib coverage --base 10.0 --from {tmp_path}" in capsys.readouterr().err


def test_property_that_the_nic_lacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cprlib.build.assets.build_assets", lambda *_, **__: pytest.fail("built the guest"))
    monkeypatch.setattr("cprlib.lab.doctor.choose_engine", lambda *_: None)
    monkeypatch.setattr("cprlib.build.coverage.build_coverage", lambda *_: BUILD)
    monkeypatch.setattr("cprlib.campaign.coverage.make_report.load_reasons", lambda _base: ())
    monkeypatch.setattr("cprlib.qemu.binary.nic_properties", lambda _: ("packed",))
    assert main(["coverage", "-p", "nic.paked=on", "--out", str(tmp_path)]) == ExitStatus.USAGE
    assert "did you mean packed?" in capsys.readouterr().err


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run on a lab of another machine; what a case has counted is in its counters."""
    folder = tmp_path / "earlier"
    make_case(folder, "one")
    build_report(folder, load_policy("default"), environment=Environment(kernel="6.1-theirs"))
    monkeypatch.setattr("cprlib.build.assets.build_assets", lambda *_, **__: pytest.fail("built the guest"))
    monkeypatch.setattr("cprlib.lab.doctor.choose_engine", lambda *_: pytest.fail("looked for a lab"))
    monkeypatch.setattr("cprlib.build.coverage.build_coverage", lambda *_: BUILD)
    monkeypatch.setattr("cprlib.campaign.coverage.collect.file_digest", lambda _: "")
    monkeypatch.setattr("cprlib.campaign.coverage.collect.read_gcov", lambda *_: CASES[1].lines)
    monkeypatch.setattr("cprlib.campaign.coverage.make_report.load_reasons", lambda _base: (REASON,))
    return folder


def make_case(folder: Path, name: str) -> None:
    case = replace(good_case(), id=name, test=f"1-tests/functional/test_a.py:A.test_{name}", source=None)
    case.write(folder / "cases" / name)
    (folder / "cases" / name / COUNTERS_FILE).touch()


def reported(folder: Path) -> Any:
    return json.loads((folder / "coverage.json").read_text(encoding="utf-8"))


def test_report_on_an_earlier_run_is_written_into_its_folder_each_time(
    earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latest").symlink_to(earlier)
    for _ in range(2):
        assert main(["coverage", "--from", str(tmp_path / "latest")]) == ExitStatus.PASS
        assert reported(earlier)["environment"]["kernel"] == "6.1-theirs"
    assert f"report: {earlier}/coverage.html" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"earlier", "latest"}
    assert main(["coverage", "--from", str(earlier), "--out", str(tmp_path)]) == ExitStatus.USAGE
    assert "leave --out out" in capsys.readouterr().err


def test_report_on_several_runs_has_the_cases_of_all(earlier: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    make_case(tmp_path / "other", "two")
    out = tmp_path / "out"
    given = ["--from", str(earlier), "--from", str(tmp_path / "other"), "--out", str(out)]
    assert main(["coverage", *given]) == ExitStatus.PASS
    assert reported(out / "latest")["tests"] == [ONE, TWO]
    assert main(["coverage", "--from", str(out / "latest")]) == ExitStatus.PASS
    assert reported(out / "latest")["tests"] == [ONE, TWO]


def test_run_keeps_the_cases_that_are_added_to_it(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_suite(results: Path, *_: object) -> Environment:
        make_case(results, "two")
        return Environment()

    monkeypatch.setattr("cprlib.cli.coverage._run_suite", run_suite)
    monkeypatch.setattr("cprlib.lab.doctor.choose_engine", lambda *_: None)
    out = tmp_path / "out"
    test = "tests/functional/test_ipv6.py"
    assert main(["coverage", test, "--from", str(earlier), "--out", str(out)]) == ExitStatus.PASS
    shutil.rmtree(earlier)
    (out / "latest" / "coverage.json").unlink()
    assert main(["coverage", "--from", str(out / "latest")]) == ExitStatus.PASS
    assert reported(out / "latest")["tests"] == [ONE, TWO]
    assert [path.name for path in (out / "latest" / "cases").iterdir()] == ["two"]
