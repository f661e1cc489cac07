"""``cprlib coverage --from`` reads earlier runs: it needs no guest, no lab, and describes where they ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cprlib.cli.main import main
from cprlib.errors import EnvironmentFailure, ExitStatus
from cprlib.report.build_report import build_report
from cprlib.report.environment import Environment
from cprlib.verdict.policy_file import load_policy
from tests.unit.compare.samples import ASSETS
from tests.unit.coverage.samples import BUILD, CASES
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


def test_report_on_earlier_runs_builds_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = tmp_path / "earlier"
    good_case().write(earlier / "cases" / good_case().id)
    machine = Environment(mode="lab", engine="uml", kernel="6.1-theirs", lab_kernel="theirs")
    build_report(earlier, load_policy("default"), environment=machine)
    monkeypatch.setattr("cprlib.build.assets.build_assets", lambda *_, **__: pytest.fail("built the guest"))
    monkeypatch.setattr("cprlib.lab.doctor.choose_engine", lambda *_: pytest.fail("looked for a lab"))
    monkeypatch.setattr("cprlib.build.coverage.build_coverage", lambda *_: BUILD)
    monkeypatch.setattr("cprlib.campaign.coverage.collect.collect", lambda *_: CASES)
    monkeypatch.setattr("cprlib.campaign.coverage.make_report.load_reasons", lambda _base: ())
    assert main(["coverage", "--from", str(earlier), "--out", str(tmp_path / "out")]) == ExitStatus.PASS
    written = json.loads((tmp_path / "out" / "latest" / "coverage.json").read_text(encoding="utf-8"))
    assert written["environment"]["kernel"] == "6.1-theirs"
