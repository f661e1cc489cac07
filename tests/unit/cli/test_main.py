"""What ends a command gets its exit status: no error of the harness is a verdict, and nor is a closed pipe."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cprlib import bootstrap
from cprlib.cli.main import main
from cprlib.errors import (
    CprlibError,
    DeadlineExceeded,
    ExitStatus,
    GuestFailed,
    InstrumentError,
    ProcessFailed,
    QemuFailed,
    UpdateFailed,
    UsageError,
)
from cprlib.files import project_folder

WORDS = ("do this", "it failed")


def end_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of a command that ends with an exception."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("cprlib.lab.doctor.check_host", fail)
    return main(["doctor"])


def classes_below(parent: type[CprlibError]) -> set[type[CprlibError]]:
    return {parent}.union(*map(classes_below, parent.__subclasses__()))


def test_no_error_of_the_harness_is_a_verdict() -> None:
    verdicts = {ExitStatus.PASS, ExitStatus.FAIL}
    assert not {each.__name__ for each in classes_below(CprlibError) if each.exit_status in verdicts}


@pytest.mark.parametrize("kind", [DeadlineExceeded, ProcessFailed, QemuFailed, GuestFailed, UpdateFailed])
def test_failure_outside_of_a_case_is_one_of_the_environment(
    kind: type[CprlibError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_with(kind(*WORDS), monkeypatch) == ExitStatus.ENVIRONMENT
    assert capsys.readouterr().err == "cprlib: cannot do this: it failed\n"


def test_other_errors_of_cprlib_keep_their_status(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_with(UsageError(*WORDS), monkeypatch) == ExitStatus.USAGE
    assert end_with(InstrumentError(*WORDS), monkeypatch) == ExitStatus.INCONCLUSIVE


@pytest.mark.parametrize(
    "error", [ValueError("of 3"), FileNotFoundError("of 3"), EOFError("of 3"), BrokenPipeError("of 3")]
)
def test_internal_error_is_inconclusive_with_its_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_with(error, monkeypatch) == ExitStatus.INCONCLUSIVE
    said = capsys.readouterr().err.strip().splitlines()
    assert "Traceback (most recent call last):" in said
    assert said[-1] == f"cprlib: internal error, please report it: {type(error).__name__}: of 3"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device", "/x"), MemoryError()])
def test_full_disk_or_memory_is_of_the_environment(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_with(error, monkeypatch) == ExitStatus.ENVIRONMENT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(error) in said


@pytest.mark.parametrize("error", [ValueError("of 3"), ProcessFailed(*WORDS)])
def test_set_up_ends_with_the_same_statuses(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise error

    monkeypatch.setattr(bootstrap, "set_up", fail)
    assert bootstrap.main(["run"]) == end_with(error, monkeypatch)


def test_interrupt_names_its_signal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_with(KeyboardInterrupt("SIGTERM"), monkeypatch) == ExitStatus.INTERRUPTED
    assert capsys.readouterr().err.strip() == "cprlib: interrupted SIGTERM"


def run_cprlib(*words: str, out: int, err: int = subprocess.PIPE) -> tuple[int, str]:
    """Exit status and standard error of the command line."""
    command = [sys.executable, "-m", "cprlib.cli.main", *words]
    done = subprocess.run(command, stdout=out, stderr=err, text=True, cwd=project_folder(), timeout=60, check=False)
    return done.returncode, done.stderr or ""


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The writing end of a pipe whose reading end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_closed_pipe_is_no_verdict_and_quiet(closed_pipe: int) -> None:
    assert run_cprlib("build", "--list", "--markdown", out=closed_pipe) == (ExitStatus.CLOSED_PIPE, "")


def test_closed_standard_error_is_no_verdict(closed_pipe: int) -> None:
    assert run_cprlib("build", "--nonsense", out=closed_pipe, err=closed_pipe)[0] == ExitStatus.CLOSED_PIPE


def test_output_that_has_no_space_is_of_the_environment() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        status, said = run_cprlib("build", "--list", "--markdown", out=full.fileno())
    assert (status, said) == (ExitStatus.ENVIRONMENT, "cprlib: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("-v run no/such/test.py", True),
        ("run -v no/such/test.py", True),
        ("run no/such/test.py --verbose", True),
        ("run no/such/test.py", False),
        ("build lab --no-series -v", True),
        ("lab run --memory 64 --results /no/such -- grep -v x", False),
        ("-v lab run --results /no/such -- grep x", True),
    ],
)
def test_verbose_is_an_option_before_and_behind_the_command(
    line: str, shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cprlib.build.assets.build_lab", lambda *_: pytest.fail("built a kernel"))
    assert main(line.split()) == ExitStatus.USAGE
    assert ("Traceback" in capsys.readouterr().err) == shown


def test_help_of_the_set_up_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(["--help"]) == 0
    printed = capsys.readouterr()
    assert (printed.err, "``" in printed.out, "::" in printed.out) == ("", False, False)
    assert "python3 -m cprlib.bootstrap run" in printed.out
