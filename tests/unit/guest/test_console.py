"""The console: readiness, panic, hostile text."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.errors import DeadlineExceeded, GuestFailed
from cprlib.evidence.guest_checks import death_checks
from cprlib.evidence.records import Outcome
from cprlib.guest.console import Console, escape

pytestmark = pytest.mark.fast

PANIC = (
    b"[    0.000000] Linux version 6.12\r\n"
    b"[    0.861431] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009\r\n"
    b"[    0.861500] CPU: 0 PID: 1\r\n"
)


def test_ready_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_bytes(b"[    1.0] noise\r\ncprlib: ready uptime_ms=2281 control=yes\r\n")
    Console(path).wait_ready()


def test_an_incomplete_line_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_bytes(b"cprlib: ready uptime_ms=2281 control=yes")
    with pytest.raises(DeadlineExceeded):
        Console(path).wait_ready(0.1)


def test_a_panic_is_noticed_at_once_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_bytes(PANIC)
    with pytest.raises(GuestFailed, match="Attempted to kill init") as caught:
        Console(path).wait_ready(60)
    assert "CPU: 0 PID: 1" in caught.value.details


def test_a_guest_without_memory_does_not_accuse_qemu(tmp_path: Path) -> None:
    path = tmp_path / "console-source.log"
    path.write_bytes(b"[    9.1] Out of memory: Killed process 1 (init) total-vm:9000kB\n" + PANIC)
    assert Console(path).ran_out_of_memory()
    assert [check.outcome for check in death_checks(tmp_path, counts_against_qemu=True)] == [Outcome.INCONCLUSIVE]
    path.write_bytes(PANIC)
    assert not Console(path).ran_out_of_memory()
    assert [check.outcome for check in death_checks(tmp_path, counts_against_qemu=True)] == [Outcome.FAIL]


@pytest.mark.parametrize(
    "line",
    [
        "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [swapper/0:1]",
        "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
    ],
)
def test_a_guest_without_processor_time_lives(line: str, tmp_path: Path) -> None:
    path = tmp_path / "console-target.log"
    path.write_text(f"[   41.4] {line}\n[   41.5] Modules linked in:\n", encoding="utf-8")
    Console(path).check()
    assert Console(path).starved() == f"[   41.4] {line}"
    assert death_checks(tmp_path, counts_against_qemu=True) == ()
    path.write_text(f"[   41.4] {line}\n[   41.5] BUG: kernel NULL pointer dereference\n", encoding="utf-8")
    with pytest.raises(GuestFailed, match="NULL pointer"):
        Console(path).check()


def test_a_dead_qemu_is_noticed(tmp_path: Path) -> None:
    def dead() -> None:
        raise GuestFailed("run", "QEMU has ended")

    with pytest.raises(GuestFailed, match="QEMU has ended"):
        Console(tmp_path / "none yet", dead).wait_ready(60)


def test_time_out_shows_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_bytes(b"one\ntwo\n")
    with pytest.raises(DeadlineExceeded) as caught:
        Console(path).wait_ready(0.05)
    assert caught.value.details == "one\ntwo"


def test_hostile_text_is_escaped_and_bounded(tmp_path: Path) -> None:
    assert escape("\x1b[2Jx\u202e") == "\\x1b[2Jx\\x202e"
    assert len(escape("y" * 10_000)) < 500
    path = tmp_path / "console"
    path.write_bytes(b"z" * (5 << 20))
    assert sum(map(len, Console(path).lines())) < 1000
