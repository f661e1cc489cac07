"""Checks of QEMUs and guests that died: made from what they left in the case's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.evidence.guest_checks import budget_of_busiest_queue, death_checks, starvation_checks
from cprlib.evidence.records import Budget, Outcome, QueueShare

pytestmark = pytest.mark.fast


def test_a_crash_has_the_last_message_of_the_qemu(tmp_path: Path) -> None:
    (tmp_path / "backtrace-target.txt").write_text("killed by SIGABRT\n#0 abort\n", encoding="utf-8")
    (tmp_path / "stderr-target.log").write_text("qemu: Assertion `x' failed\n", encoding="utf-8")
    (check,) = death_checks(tmp_path, counts_against_qemu=True)
    assert (check.name, check.outcome, check.observed) == ("qemu-lives", Outcome.FAIL, "killed by SIGABRT")
    assert check.message == "the target was killed by SIGABRT: qemu: Assertion `x' failed; see backtrace-target.txt"


def test_a_crash_of_a_qemu_without_a_log_of_its_own_is_a_failed_check(tmp_path: Path) -> None:
    """A target that the source executed in its place (cpr-exec) writes to the source's log; without an update too."""
    (tmp_path / "backtrace-target.txt").write_text("killed by SIGSEGV\n", encoding="utf-8")
    (check,) = death_checks(tmp_path, counts_against_qemu=False)
    assert (check.outcome, check.observed) == (Outcome.FAIL, "killed by SIGSEGV")


def test_a_crash_of_a_qemu_that_restored_the_guest_is_a_failed_check(tmp_path: Path) -> None:
    """The guest is booted then, and all else may pass."""
    folder = tmp_path / "not-restored"
    folder.mkdir()
    (folder / "backtrace-source.txt").write_text("killed by SIGABRT\n", encoding="utf-8")
    (folder / "stderr-source.log").write_text("qemu: Assertion `x' failed\n", encoding="utf-8")
    (tmp_path / "stderr-source.log").write_text("qemu: warning\n", encoding="utf-8")
    (check,) = death_checks(tmp_path, counts_against_qemu=False)
    assert (check.name, check.outcome) == ("qemu-lives", Outcome.FAIL)
    assert check.message.endswith(": qemu: Assertion `x' failed; see not-restored/backtrace-source.txt")


def test_without_a_crash_there_is_no_check(tmp_path: Path) -> None:
    (tmp_path / "stderr-source.log").write_text("qemu: warning\n", encoding="utf-8")
    assert death_checks(tmp_path, counts_against_qemu=True) == ()


LOCKUP = "watchdog: BUG: soft lockup - CPU#0 stuck for 26s!"


@pytest.mark.parametrize(
    ("name", "control_run_ms", "failed_update", "outcome"),
    [
        ("target", 20.0, False, Outcome.FAIL),
        ("target", 1500.0, False, Outcome.INCONCLUSIVE),  # the machine stands still without an update, too
        ("target", None, False, Outcome.INCONCLUSIVE),  # nothing is known of the machine
        ("source", 20.0, False, Outcome.INCONCLUSIVE),  # no update had begun
        ("source", 20.0, True, Outcome.FAIL),
    ],
)
def test_a_guest_without_processor_time(
    name: str, control_run_ms: float | None, failed_update: bool, outcome: Outcome, tmp_path: Path
) -> None:
    (tmp_path / f"console-{name}.log").write_text(f"{LOCKUP}\n", encoding="utf-8")
    (check,) = starvation_checks(tmp_path, control_run_ms, failed_update)
    assert (check.name, check.outcome, check.observed) == ("guest-not-starved", outcome, LOCKUP)
    assert LOCKUP in check.message


def test_guests_with_processor_time_have_no_check(tmp_path: Path) -> None:
    (tmp_path / "console-target.log").write_text("cprlib: ready\n", encoding="utf-8")
    assert starvation_checks(tmp_path, 0.0, failed_update=False) == ()


@pytest.mark.parametrize(
    ("received", "rate"),
    [
        ((100, 100, 100, 100), 250.0),
        ((200, 200, 0, 0), 500.0),  # four flows use two queues
        ((400,), 1000.0),
        ((), 250.0),  # not counted
        ((0, 0), 250.0),
        ((None, None), 250.0),
    ],
)
def test_budget_follows_the_busiest_queue(received: tuple[int | None, ...], rate: float) -> None:
    shares = tuple(QueueShare(number, count, None) for number, count in enumerate(received))
    assert budget_of_busiest_queue(Budget(100, 250.0), shares, 1000.0) == Budget(100, rate)
    assert budget_of_busiest_queue(None, shares, 1000.0) is None
