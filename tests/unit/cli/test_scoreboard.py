"""``cprlib scoreboard`` refuses bad options in one line, writes its page, and a resumed session keeps its request."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cprlib.campaign import job
from cprlib.campaign.scoreboard import run
from cprlib.campaign.scoreboard.figures import Measured
from cprlib.campaign.scoreboard.plan import STORE, ScoreboardRequest, choose_rows
from cprlib.cli.main import main
from cprlib.errors import ExitStatus
from cprlib.evidence.records import UpdateFigures


class Sessions:
    """Measures nothing, and notes the requests."""

    def __init__(self) -> None:
        self.requests: list[ScoreboardRequest] = []
        self.updates: tuple[UpdateFigures, ...] = (UpdateFigures(1),)

    failures: tuple[str, ...] = ()

    def run(self, folder: Path, request: ScoreboardRequest, tests: Sequence[Any], **_: object) -> list[Measured]:
        del folder, tests
        self.requests.append(request)
        return [
            Measured(row, "10.0.13", updates=self.updates, failures=self.failures) for row in choose_rows(request.only)
        ]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    made = Sessions()
    monkeypatch.setattr(run, "run_session", made.run)
    monkeypatch.setattr(job, "list_tests", lambda: ())
    return made


def test_page_is_printed_and_written(sessions: Sessions, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del sessions
    page = tmp_path / "page.md"
    given = ["scoreboard", "--lab", "--runs", "2", "--only", "series-10.0-*", "--page", str(page)]
    assert main([*given, "--out", str(tmp_path / "out")]) == ExitStatus.PASS
    text = capsys.readouterr().out
    assert text.startswith("# Scoreboard\n")
    assert page.read_text() == text
    assert stat.filemode(page.stat().st_mode) == "-rw-r--r--"  # a page of the documentation
    assert (tmp_path / "out/latest/scoreboard.md").read_text() == text


def test_row_without_figures_is_inconclusive(sessions: Sessions, tmp_path: Path) -> None:
    sessions.updates = ()
    assert main(["scoreboard", "--lab", "--only", "series-*", "--out", str(tmp_path)]) == ExitStatus.INCONCLUSIVE


def test_row_whose_updates_all_fail_was_measured(sessions: Sessions, tmp_path: Path) -> None:
    sessions.updates, sessions.failures = (), ("update-completes",)
    assert main(["scoreboard", "--lab", "--only", "series-*", "--out", str(tmp_path)]) == ExitStatus.PASS


def test_resumed_session_keeps_its_request(sessions: Sessions, tmp_path: Path) -> None:
    main(["scoreboard", "--lab", "--runs", "7", "--only", "series-*", "--out", str(tmp_path)])
    main(["scoreboard", "--resume", "--out", str(tmp_path)])
    first, second = sessions.requests
    assert first == second
    assert (second.runs, second.only, second.engine) == (7, ("series-*",), "uml")
    assert STORE.latest(tmp_path).is_dir()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--only", "nonsense"], "no row matches"),
        (["--native", "--lab"], "both --native and --lab"),
        (["--resume"], "no session"),
        (["--resume", "--runs", "2"], "a resumed session keeps the request"),
        (["--runs", "0"], "--runs"),
    ],
)
def test_bad_options_are_refused(
    sessions: Sessions, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], words: str
) -> None:
    assert main(["scoreboard", "--out", str(tmp_path), *given]) == ExitStatus.USAGE
    assert words in capsys.readouterr().err
    assert not sessions.requests
