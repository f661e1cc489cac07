"""What ``cprlib compare`` refuses, before anything is built or booted."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.campaign import session as session_module
from cprlib.cli.main import main
from cprlib.errors import ExitStatus

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("something was built")

    monkeypatch.setattr(session_module, "build_assets", build)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "neither --b nor two saved results"),
        (["one"], "neither --b nor two saved results"),
        (["one", "two"], "there is no such folder"),
        (["one", "--b", "/bin/true"], "both given"),
        (["--b", "/bin/true", "--native", "--lab", "uml"], "both --native and --lab"),
        (["--b", "/bin/true", "-p", "ratte=1"], "no such parameter"),
        (["--b", "/bin/true", "--policy", "unknown"], "no policy of that name"),
        (["--b", "/nowhere/qemu"], "/nowhere/qemu"),
        (["--resume"], "no session in"),
        (["--resume", "--budget", "20"], "resume cprlib compare with --budget"),
    ],
)
def test_bad_calls_are_usage_errors_in_one_line(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == ExitStatus.USAGE
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert why in lines[0]
    assert not list(tmp_path.iterdir())
