"""Avocado's settings, and its end."""

from __future__ import annotations

import configparser
import io
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cprlib.deadline import SCALE_VARIABLE
from cprlib.lab import avocado_run
from cprlib.lab.avocado_run import SuiteRun, run_shown
from cprlib.lab.job_display import JobDisplay
from cprlib.report.results_folder import LOG_FILE

AVOCADO = """
import subprocess, sys
subprocess.Popen(["sleep", "6"], start_new_session=True)
print("the last line", file=sys.stderr)
sys.exit(4)
"""


def read(suite: SuiteRun) -> configparser.ConfigParser:
    """The settings as Avocado reads them."""
    parser = configparser.ConfigParser()
    parser.read_string(suite.settings())
    return parser


def test_path_of_a_checkout_may_have_a_percent_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avocado_run, "project_folder", lambda: Path("/ws%2Fx"))
    assert read(SuiteRun(Path("/r"), [], {})).get("datadir.paths", "test_dir") == "/ws%2Fx/tests"


def test_test_that_is_terminated_has_time_for_its_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SCALE_VARIABLE, raising=False)
    for environment, seconds in (({}, 5), ({SCALE_VARIABLE: "3"}, 15)):
        parser = read(SuiteRun(Path("/r"), [], {}, environment=environment))
        assert parser.getint("runner.task.interval", "from_soft_to_hard_termination") == seconds


def test_interrupt_of_a_run_that_has_ended_is_an_interrupt(tmp_path: Path) -> None:
    with subprocess.Popen(["true"], text=True) as ended:
        ended.wait()

    def wait(timeout: float | None = None) -> int:
        if timeout is None:
            raise KeyboardInterrupt
        raise subprocess.TimeoutExpired("avocado", timeout)

    ended.wait = wait  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        avocado_run._wait(ended, SuiteRun(tmp_path, [], {}))


def test_process_that_holds_the_errors_open_delays_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avocado_run, "LAST_LINES_S", 0.2)
    monkeypatch.setattr(SuiteRun, "command", lambda *_: [sys.executable, "-c", AVOCADO])
    output, begun = io.StringIO(), time.monotonic()
    assert run_shown(SuiteRun(tmp_path, [], {}), JobDisplay({}, 1, output)) == 4
    assert time.monotonic() - begun < 5
    assert (tmp_path / LOG_FILE).read_text() == "the last line\n"
    assert "the last line" in output.getvalue()
