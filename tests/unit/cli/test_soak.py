"""``cprlib soak`` refuses bad options in one line, and a resumed soak keeps its request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from cprlib.campaign.job import SuiteTest
from cprlib.campaign.soak.result import STORE, SoakRequest, SoakResult
from cprlib.cli.main import cprlib, main
from cprlib.errors import EnvironmentFailure, ExitStatus
from tests.unit.soak.samples import case, result

TESTS = (SuiteTest("test-a", "/x/test_x.py:X.test_a"), SuiteTest("test-b", "/x/test_x.py:X.test_b"))
Asked = list[tuple[Path, SoakRequest, float]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The requested sessions; nothing runs."""
    calls: Asked = []

    def run(
        folder: Path, request: SoakRequest, tests: Sequence[SuiteTest], seconds: float, **more: object
    ) -> SoakResult:
        assert tests == TESTS
        calls.append((folder, request, seconds))
        made = result(folder, case(1))
        show = more["show"]
        assert callable(show)
        show(made)
        return made

    monkeypatch.setattr("cprlib.campaign.job.list_tests", lambda tags=(): TESTS if tags != ("none",) else ())
    monkeypatch.setattr("cprlib.campaign.soak.run.soak", run)
    return calls


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "give --hours"),
        (["--hours", "1", "--native", "--lab"], "both --native and --lab"),
        (["--hours", "1", "--lab", "xen"], "no such engine"),
        (["--hours", "1", "--policy", "kind", "--lab"], "kind"),
        (["--hours", "1", "--base", "1.0", "--lab"], "1.0"),
        (["--hours", "1", "--qemu", "/etc/passwd", "--lab"], "/etc/passwd"),
        (["--resume", "--seed", "3"], "--seed"),
        (["--resume", "--keep-mib", "3"], "--keep-mib"),
        (["--resume", "-t", "x"], "--tag"),
        (["--resume"], "no session in"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error_of_one_line(
    given: list[str], why: str, asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["soak", "--out", str(tmp_path), *given]) == ExitStatus.USAGE
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert why in lines[0]
    assert asked == []
    assert list(tmp_path.iterdir()) == []


def test_soak_begins_and_shows_its_seed(asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", "--out", str(tmp_path), "--hours", "0.5", "--seed", "9", "--lab"]) == ExitStatus.PASS
    ((folder, request, seconds),) = asked
    assert (request.seed, request.tests, request.engine, seconds) == (9, ("test-a", "test-b"), "uml", 1800)
    assert STORE.read(folder) == request
    printed = capsys.readouterr()
    assert "seed 9; 2 tests to draw from" in printed.err
    assert "verdict: PASS" in printed.out
    assert (tmp_path / "latest").resolve() == folder


def test_seed_is_chosen_where_none_is_given(asked: Asked, tmp_path: Path) -> None:
    for _ in range(2):
        main(["soak", "--out", str(tmp_path), "--hours", "1", "--lab"])
    assert asked[0][1].seed != asked[1][1].seed


def test_resume_keeps_the_request(asked: Asked, tmp_path: Path) -> None:
    main(["soak", "--out", str(tmp_path), "--hours", "2", "--seed", "9", "--lab", "--policy", "strict"])
    assert main(["soak", "--out", str(tmp_path), "--resume", "--hours", "0.1"]) == ExitStatus.PASS
    assert asked[1] == (asked[0][0], asked[0][1], 360.0)
    main(["soak", "--out", str(tmp_path), "--resume"])
    assert asked[2][2] == 7200.0
    assert STORE.latest(tmp_path) == asked[0][0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, EnvironmentFailure("write soak.json", "no space", "free some")])
def test_interruption_says_how_to_resume(
    asked: Asked,
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*_: object, **__: object) -> SoakResult:
        raise error

    monkeypatch.setattr("cprlib.campaign.soak.run.soak", run)
    status = main(["soak", "--out", str(tmp_path), "--hours", "1", "--lab"])
    assert status in (ExitStatus.INTERRUPTED, ExitStatus.ENVIRONMENT)
    assert f"resume with: cprlib soak --resume --out {tmp_path}" in capsys.readouterr().err
    assert asked == []


def test_in_the_nested_lab_the_rate_is_left_alone(asked: Asked, tmp_path: Path) -> None:
    main(["soak", "--out", str(tmp_path), "--hours", "1", "--lab", "kvm"])
    assert not any("rate" in names for names in asked[0][1].choices.vary.values())
    assert asked[0][1].choices.vary


def test_command_is_listed() -> None:
    assert "soak" in cprlib.list_commands(click.Context(cprlib))
