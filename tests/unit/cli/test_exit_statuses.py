"""The documented exit statuses of ``cprlib run``, from the command line to the status, without guests.

What Avocado would leave is put into the job's folder; gathering, policy, judging, reports and the status are real.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.assets import Assets
from cprlib.cli.main import main
from cprlib.errors import EnvironmentFailure, ExitStatus
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Outcome
from cprlib.files import project_folder
from cprlib.guest.image import GuestImage
from cprlib.lab import avocado_run
from cprlib.lab.avocado_run import SuiteRun
from cprlib.lab.job_display import JobDisplay
from cprlib.qemu.binary import QemuBinary
from cprlib.traffic.figures import PerDirection
from tests.unit.evidence.samples import good_case

Ran = Callable[..., int]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ran:
    """``cprlib run`` with the cases of its tests: one or none."""

    def run(*words: str, case: CaseEvidence | None) -> int:
        def avocado(suite: SuiteRun, _display: JobDisplay) -> int:
            if case is not None:
                job = suite.results / suite.job_folder / "job-2026-01-01T00.00-abc"
                case.write(job / "test-results" / "1-x" / "data" / "cases" / case.id)
                (job / "results.json").write_text(json.dumps({"tests": [], "total": 0}))
            return 0

        assets = Assets(QemuBinary(Path("/q")), GuestImage(Path("/k"), Path("/i"), "x"))

        def build(*_: object, **__: object) -> Assets:
            (tmp_path / "built").touch()
            return assets

        monkeypatch.setattr("cprlib.build.assets.build_assets", build)
        monkeypatch.setattr("cprlib.lab.doctor.choose_engine", lambda *_: None)
        monkeypatch.setattr(avocado_run, "run_shown", avocado)
        return main(["run", "--out", str(tmp_path / "results"), *words])

    return run


def lost(count: int) -> CaseEvidence:
    return replace(good_case(), loss=PerDirection(count, 0))


def test_pass_is_0(ran: Ran) -> None:
    assert ran(case=good_case()) == 0


def test_each_run_adds_itself_to_the_history(ran: Ran, tmp_path: Path) -> None:
    assert ran(case=good_case()) == 0
    first = (tmp_path / "results" / "index.html").read_text(encoding="utf-8")
    assert ran(case=lost(3)) == 1
    second = (tmp_path / "results" / "index.html").read_text(encoding="utf-8")
    assert ("1 run in" in first, "2 runs in" in second) == (True, True)
    for folder in (tmp_path / "results").glob("2*"):
        assert 'href="../index.html"' in (folder / "report.html").read_text(encoding="utf-8")


def test_fail_is_1(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(case=lost(3)) == 1
    assert "verdict: FAIL" in capsys.readouterr().out


def test_given_policy_is_used(ran: Ran, tmp_path: Path) -> None:
    policy = tmp_path / "lenient.toml"
    policy.write_text('extends = "default"\n[loss]\nforward = 5\n[ledger]\nunexplained = 5\n')
    assert ran("--policy", str(policy), case=lost(3)) == 0
    assert ran("--policy", str(policy), case=lost(6)) == 1
    assert ran("--policy", "strict", case=lost(3)) == 1


def test_bad_policy_is_2_with_its_line_and_nothing_runs(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "bad.toml"
    policy.write_text("[loss]\nforwards = 5\n")
    assert ran("--policy", str(policy), case=good_case()) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "bad.toml: line 2: unknown key 'forwards' in [loss]" in said[0]
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--nonsense",),
        ("no/such/test.py",),
        ("tests/functional/test_ipv6.py:Ipv6.test_nope",),
        ("-t", "nosuch"),
        ("--policy", "gone"),
        ("--native", "--lab", "uml"),
        ("-p", "rate"),
        ("--target-base", "99"),
        ("--baseline", "gone.json"),
        ("--anyway",),
    ],
)
def test_usage_is_2_and_nothing_is_built(ran: Ran, words: tuple[str, ...], tmp_path: Path) -> None:
    assert ran(*words, case=good_case()) == 2
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "built").exists()


def test_inconclusive_is_3(ran: Ran) -> None:
    unsound = replace(good_case(), instrument=replace(good_case().instrument, capture_drops=1))
    assert ran(case=unsound) == 3
    not_made = good_case().with_checks(Check("some-check", Outcome.INCONCLUSIVE, "x", "could not look"))
    assert ran(case=not_made) == 3


def test_report_is_drawn_once_and_the_history_after_the_verdict(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[str] = []

    def render(template: str, *_: object, **__: object) -> str:
        drawn.append(template)
        return ""

    def write_index(_: Path) -> None:
        drawn.append("history after verdict" if "verdict: " in capsys.readouterr().out else "history")

    monkeypatch.setattr("cprlib.report.html.render", render)
    monkeypatch.setattr("cprlib.report.history.write_index", write_index)
    assert ran(case=good_case().with_checks(Check("some-check", Outcome.INCONCLUSIVE, "x", "could not look"))) == 3
    assert drawn == ["history", "report.html", "history after verdict"]


def test_qemu_without_the_option_is_3_and_a_policy_may_make_it_1(ran: Ran) -> None:
    skipped = replace(good_case(), skipped="this QEMU has no cpr=on", skip_word="no-cpr")
    assert ran(case=skipped) == 3
    assert ran("--policy", "strict", case=skipped) == 1


def test_environment_is_4(ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(case=None) == 4  # Avocado made no job

    def full(*_: object, **__: object) -> Assets:
        raise EnvironmentFailure("build QEMU", "No space left on device", "free some space")

    capsys.readouterr()
    monkeypatch.setattr("cprlib.build.assets.build_assets", full)
    assert main(["run"]) == 4
    assert capsys.readouterr().err == "cprlib: cannot build QEMU: No space left on device; free some space\n"


def test_interrupted_is_130(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> Assets:
        raise KeyboardInterrupt

    assert ran(case=good_case()) == 0
    monkeypatch.setattr("cprlib.build.assets.build_assets", stopped)
    assert main(["run"]) == 130


def test_all_statuses_are_documented() -> None:
    text = (project_folder() / "docs" / "cli.md").read_text(encoding="utf-8")
    for status in ExitStatus:
        assert f"| {status} | " in text


def test_latest_that_is_a_folder_hides_no_verdict(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results" / "latest").mkdir(parents=True)
    assert ran(case=lost(3)) == 1
    printed = capsys.readouterr()
    assert "verdict: FAIL" in printed.out
    (folder,) = (tmp_path / "results").glob("2*")
    assert f"report: {folder / 'report.html'}" in printed.out
    assert "cannot point" in printed.err


@pytest.mark.parametrize("error", [KeyboardInterrupt, EnvironmentFailure("write evidence", "No space left on device")])
def test_interrupted_run_says_where_its_results_are(
    ran: Ran,
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object) -> int:
        raise error

    monkeypatch.setattr(avocado_run, "run_and_collect", stopped)
    assert ran(case=good_case()) in (ExitStatus.INTERRUPTED, ExitStatus.ENVIRONMENT)
    (folder,) = (tmp_path / "results").glob("2*")
    assert f"report on them with: cprlib report --policy default {folder}" in capsys.readouterr().err


def test_build_makes_everything_at_once_before_it_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def note(name: str, made: object) -> Callable[..., object]:
        def build(*_: object, **__: object) -> object:
            order.append(name)
            return made

        return build

    assets = Assets(QemuBinary(Path("/q"), Path("/f")), GuestImage(Path("/k"), Path("/i"), "x"), Path("/l"))
    monkeypatch.setattr("cprlib.build.assets.build_assets", note("all", assets))
    monkeypatch.setattr("cprlib.build.assets.build_base", note("qemu", assets.qemu))
    monkeypatch.setattr("cprlib.build.assets.build_guest", note("guest", assets.guest))
    monkeypatch.setattr("cprlib.build.assets.build_lab", note("lab", assets.lab_kernel))
    assert main(["build"]) == 0
    assert order == ["all", "qemu", "guest", "lab"]
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["/q", "/f", "/k", "/i", "/l"]
