"""A QEMU that misbehaves is killed within a deadline, the error says what it did, and the evidence is kept."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import CprlibError, DeadlineExceeded, EnvironmentFailure, QemuFailed, UsageError
from cprlib.evidence.guest_checks import death_checks
from cprlib.evidence.records import Outcome
from cprlib.guest.console import Console
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.procfs import children_of
from cprlib.process import run
from cprlib.qemu import qmp, supervision
from cprlib.qemu.binary import QemuBinary, probe
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.machine import Machine
from cprlib.qemu.qmp import QmpConnection
from cprlib.qemu.start import start_machine, successor_of
from tests.unit.base.test_process import alive

BAD = Path(__file__).with_name("bad_qemu.py")
SHORT_S = 1.0
SOON_S = 8.0  # a deadline of 1 s, a killed process, an interpreter that starts on a busy machine


@contextlib.contextmanager
def started(folder: Path, misbehaviour: str, program: Path = BAD) -> Iterator[Machine]:
    settings = MachineSettings(
        QemuBinary(program), Path("/k"), Path("/i"), "console=ttyS0", (), (), extra=("-misbehave", misbehaviour)
    )
    with contextlib.ExitStack() as stack:
        try:
            namespace = stack.enter_context(NetworkNamespace("test"))
        except EnvironmentFailure as error:
            pytest.skip(str(error))
        yield stack.enter_context(start_machine("source", settings, folder, namespace))


def check_ended(machine: Machine, folder: Path) -> None:
    """The process is gone and its evidence is complete."""
    assert not alive(machine.pid)
    assert {path.name for path in folder.iterdir()} >= {"command-source.txt", "stderr-source.log", "qmp-source.log"}
    assert "bad QEMU" in (folder / "stderr-source.log").read_text()
    assert all(path.stat().st_mode & 0o777 in (0o600, 0o644) for path in folder.iterdir())


@pytest.mark.parametrize("misbehaviour", ["hang-before-qmp", "half-a-greeting"])
def test_qemu_without_a_greeting_exceeds_the_deadline(tmp_path: Path, misbehaviour: str) -> None:
    started_at = time.monotonic()
    said = f"QMP of the source: nothing .*its last message: bad QEMU: {misbehaviour}"
    with pytest.raises(DeadlineExceeded, match=said), started(tmp_path, misbehaviour) as machine:
        machine.wait_ready(SHORT_S)
    assert time.monotonic() - started_at < SOON_S
    check_ended(machine, tmp_path)


def test_garbage_greeting_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(QemuFailed, match="talk QMP to the source"), started(tmp_path, "garbage-greeting") as machine:
        machine.wait_ready(20)
    check_ended(machine, tmp_path)


@pytest.mark.parametrize("misbehaviour", ["never-replies", "half-a-reply"])
def test_command_without_a_reply_exceeds_the_deadline(tmp_path: Path, misbehaviour: str) -> None:
    with pytest.raises(DeadlineExceeded, match="reply to query-status"), started(tmp_path, misbehaviour) as machine:
        machine.wait_ready(20)
        machine.qmp.execute("query-status", seconds=SHORT_S)
    check_ended(machine, tmp_path)
    sent = [json.loads(line) for line in (tmp_path / "qmp-source.log").read_text().splitlines()]
    assert sent[-1]["message"]["execute"] == "query-status"


def test_garbage_reply_breaks_the_connection(tmp_path: Path) -> None:
    with pytest.raises(QemuFailed, match="connection broke"), started(tmp_path, "garbage-reply") as machine:
        machine.wait_ready(20)
        machine.qmp.execute("query-status")
    check_ended(machine, tmp_path)


def test_endless_line_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(QemuFailed), started(tmp_path, "endless-line") as machine:
        machine.wait_ready(30)
    check_ended(machine, tmp_path)


def test_flood_of_events_is_an_error_with_a_bounded_transcript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "MAX_EVENTS", 3000)
    monkeypatch.setattr(qmp, "TRANSCRIPT_LIMIT", 100_000)
    with pytest.raises(QemuFailed, match="sent 3000 events"), started(tmp_path, "event-flood") as machine:
        machine.wait_ready(20)
        machine.qmp.wait_event("STOP", deadline=Deadline(30, "an event"))
    check_ended(machine, tmp_path)
    assert (tmp_path / "qmp-source.log").stat().st_size < 101_000
    assert "too long" in (tmp_path / "qmp-source.log").read_text().splitlines()[-1]


def test_flood_of_events_ends_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "MAX_EVENTS", 3000)
    with pytest.raises(QemuFailed, match="sent 3000 events"), started(tmp_path, "event-flood") as machine:
        machine.wait_ready(20)
        machine.qmp.execute("query-status")


def test_endless_console_output_kills_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cprlib.qemu.start.CONSOLE_LIMIT", 1 << 20)
    monkeypatch.setattr(supervision, "WATCH_INTERVAL_S", 0.02)
    with (
        pytest.raises(QemuFailed, match=r"console-source.log had grown to \d+ MiB"),
        started(tmp_path, "console-flood") as machine,
    ):
        Console(machine.files.console, lambda: machine.check_alive("boot the guest")).wait_ready(30)
    check_ended(machine, tmp_path)
    assert (tmp_path / "console-source.log").stat().st_size < 1 << 30


@pytest.mark.parametrize("misbehaviour", ["abort", "abort-later"])
def test_abort_keeps_a_backtrace_or_says_why_there_is_none(tmp_path: Path, misbehaviour: str) -> None:
    with pytest.raises(CprlibError), started(tmp_path, misbehaviour) as machine:
        machine.wait_ready(20)
        machine.qmp.execute("query-status")
    check_ended(machine, tmp_path)
    text = (tmp_path / "backtrace-source.txt").read_text()
    assert ("core-source" in {path.name for path in tmp_path.iterdir()}) != ("no core file" in text)


def plain_core_pattern() -> bool:
    pattern = supervision.CORE_PATTERN.read_text().strip() if supervision.CORE_PATTERN.exists() else "|"
    return "/" not in pattern and not pattern.startswith("|") and "%" not in pattern


@pytest.mark.skipif(not plain_core_pattern(), reason="core_pattern of this kernel is not a plain file")
@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
def test_core_is_kept_and_gdb_shows_where_it_aborted(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no compiler")
    source = tmp_path / "a.c"
    source.write_text("#include <stdlib.h>\nvoid abort_here(void) { abort(); }\nint main() { abort_here(); }\n")
    program = tmp_path / "qemu"
    run([compiler, "-g", "-O0", "-o", str(program), str(source)], purpose="compile a program that aborts")
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    with (
        pytest.raises(QemuFailed, match=r"ended with killed by SIGABRT.*see backtrace-source.txt"),
        started(evidence, "-", program) as machine,
    ):
        machine.wait_ready(20)
    assert "abort_here" in (evidence / "backtrace-source.txt").read_text()
    assert (evidence / "core-source").stat().st_mode & 0o777 == 0o600
    assert not list(evidence.glob("core.*"))


def test_normal_end_leaves_no_crash_files(tmp_path: Path) -> None:
    assert supervision.keep_crash(tmp_path, "source", 1, 0, BAD) is None
    assert supervision.keep_crash(tmp_path, "source", 1, -9, BAD) is None
    assert supervision.keep_crash(tmp_path, "source", 1, None, BAD) is None
    assert list(tmp_path.iterdir()) == []


def test_without_gdb_the_core_is_kept_with_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "core.7").write_bytes(b"core")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    text = supervision.keep_crash(tmp_path, "source", 7, -6, BAD)
    assert text is not None
    assert "gdb is not installed" in text.read_text()
    assert (tmp_path / "core-source").read_bytes() == b"core"


def test_core_of_user_mode_linux_is_corrected(tmp_path: Path) -> None:
    """Its notes about registers have the header of a signal frame where gdb looks for the processor's features."""
    features, notes_at = 0xE7, 120
    frame = struct.pack("<4sIQI", b"SXPF", 0x984, features, 0x980)
    notes = b"SXPF, no frame" + frame + bytes(3) + frame
    header = b"\x7fELF".ljust(32, b"\0") + struct.pack("<Q", 64)
    core = header.ljust(64, b"\0") + struct.pack("<8xQ16xQ16x", notes_at, len(notes)) + notes
    (tmp_path / "core.7").write_bytes(core)
    supervision.keep_crash(tmp_path, "source", 7, -6, BAD)
    corrected = struct.pack("<Q", features) + frame[8:]
    assert (tmp_path / "core-source").read_bytes() == core.replace(frame, corrected)


@pytest.mark.parametrize("content", [b"core", b"\x7fELF".ljust(32, b"\0") + struct.pack("<Q", 64)])
def test_core_that_was_cut_off_is_kept_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "core.7").write_bytes(content)
    text = supervision.keep_crash(tmp_path, "source", 7, -6, BAD)
    assert text is not None
    assert "no backtrace: gdb" in text.read_text()
    assert (tmp_path / "core-source").read_bytes() == content


def test_program_that_misbehaves_is_not_a_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRLIB_TIMEOUT_SCALE", "0.05")
    program = tmp_path / "qemu"
    program.write_text(f'#!/bin/sh\nexec {BAD} -misbehave garbage-greeting "$@"\n')
    program.chmod(0o755)
    with pytest.raises(CprlibError, match="as QEMU"):
        probe(QemuBinary(program))


def wrapper(folder: Path, *lines: str) -> Path:
    program = folder / "wrapper"
    program.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    program.chmod(0o755)
    return program


def test_qemu_below_a_wrapper_is_the_process_that_is_examined(tmp_path: Path) -> None:
    program = wrapper(tmp_path, f'{BAD} "$@"', "exit $?")
    with started(tmp_path, "serves", program) as machine:
        machine.wait_ready(20)
        assert machine.pid != machine.process.pid
        assert machine.pid in children_of(machine.process.pid)
        assert "-misbehave" in Path(f"/proc/{machine.pid}/cmdline").read_text().split("\0")
        assert machine.failure() == ""
        pid = machine.pid
    Deadline(10, "QEMU to die").poll(lambda: not alive(pid))  # its parent may have ended first


def test_crash_below_a_wrapper_is_a_crash(tmp_path: Path) -> None:
    program = wrapper(tmp_path, f'{BAD} "$@"', "exit $?")
    with (
        pytest.raises(QemuFailed, match="ended with killed by SIGABRT"),
        started(tmp_path, "abort-later", program) as machine,
    ):
        machine.wait_ready(20)
        with contextlib.suppress(CprlibError):
            machine.qmp.execute("query-status")
        machine.wait_exit(Deadline(20, "its end"))
        assert "killed by SIGABRT" in machine.failure()
        machine.check_alive("run the guest")
    assert (tmp_path / "backtrace-source.txt").read_text().startswith("killed by SIGABRT\n")
    (check,) = death_checks(tmp_path, counts_against_qemu=False)
    assert (check.name, check.outcome) == ("qemu-lives", Outcome.FAIL)
    assert "the source was killed by SIGABRT: bad QEMU: abort-later" in check.message


def test_a_target_that_its_sandbox_killed_has_not_refused(tmp_path: Path) -> None:
    with started(tmp_path, "forbidden-call") as machine:
        machine.wait_exit(Deadline(20, "its end"))
        assert "killed by SIGSYS" in machine.failure(may_end=True)
    (check,) = death_checks(tmp_path, counts_against_qemu=False)
    assert (check.name, check.outcome) == ("qemu-lives", Outcome.FAIL)


def test_a_crash_of_a_qemu_executed_in_place_is_kept_once_with_the_log_of_the_process(tmp_path: Path) -> None:
    with started(tmp_path, "abort-later") as machine:
        machine.wait_ready(20)
        target = successor_of(machine, "target", machine.settings)
        assert (target.files.output, target.files.qmp) == (machine.files.output, machine.files.qmp)
        assert target.files.trace.name == "trace-target.log"
        with contextlib.suppress(CprlibError):
            target.qmp.execute("query-status")
        target.wait_exit(Deadline(20, "its end"))
        assert "bad QEMU: abort-later" in target.failure()
    (check,) = death_checks(tmp_path, counts_against_qemu=True)
    assert "bad QEMU: abort-later; see backtrace-source.txt" in check.message


def test_qemu_below_a_wrapper_dies_with_the_harness(tmp_path: Path) -> None:
    """The cleanup process kills the wrapper's process group."""
    program = wrapper(tmp_path, f'{BAD} "$@"', "exit $?")
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            with started(tmp_path, "serves", program) as machine:
                machine.wait_ready(20)
                os.write(writer, str(machine.pid).encode())
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    pid = int(os.read(reader, 20))
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    Deadline(10, "QEMU to die").poll(lambda: not alive(pid))


def test_a_qemu_that_hangs_has_fallen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cprlib.qemu.machine.RESPOND_S", SHORT_S)
    with started(tmp_path, "never-replies") as machine:
        machine.wait_ready(20)
        assert machine.failure().startswith("the source hangs: no reply to query-status")


def test_a_qemu_that_was_killed_or_quits_has_not_fallen(tmp_path: Path) -> None:
    with started(tmp_path, "serves") as machine:
        machine.wait_ready(20)
        machine.process.kill()
        machine.wait_exit(Deadline(20, "its end"))
        assert machine.failure() == ""


@pytest.mark.parametrize("misbehaviour", ["serves", "ends-on-sigterm"])
def test_a_qemu_that_was_terminated_has_not_fallen(tmp_path: Path, misbehaviour: str) -> None:
    with started(tmp_path, misbehaviour) as machine:
        machine.wait_ready(20)
        assert machine.killing_signal() == ""
        os.kill(machine.pid, signal.SIGTERM)
        status = machine.wait_exit(Deadline(20, "its end"))
        assert status == (-signal.SIGTERM if misbehaviour == "serves" else 0)
        assert (machine.failure(), machine.killing_signal()) == ("", "SIGTERM")


def test_messages_since_a_mark_are_the_new_ones_of_output_and_log(tmp_path: Path) -> None:
    with started(tmp_path, "serves") as machine:
        machine.wait_ready(20)
        with machine.files.output.open("a") as output, machine.files.trace.open("a") as log:
            output.write("old output\n")
            log.write("old line of the log\n1@1.000001:cpr_save_fd x")
            for stream in (output, log):
                stream.flush()
            mark = machine.mark_messages()
            output.write("new output\n")
            log.write("\nnew line of the log\n")
        assert machine.messages_since(mark) == "new output\nnew line of the log"
        assert machine.messages.endswith("new output\nold line of the log\nnew line of the log")


def test_a_program_that_cannot_be_started_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(EnvironmentFailure) as caught, started(tmp_path, "-", tmp_path / "absent"):
        pass
    assert os.listdir("/proc/self/fd") == before
    assert "absent" in caught.value.happened


def test_a_script_that_adds_options_gets_advice(tmp_path: Path) -> None:
    program = wrapper(tmp_path, "echo \"qemu: Invalid SMP CPUs 4: machine 'none' has 1\" >&2", "exit 1")
    with pytest.raises(UsageError, match=r"Invalid SMP CPUs 4.*; it is a script.*-machine none") as caught:
        probe(QemuBinary(program))
    assert "qemu-system-x86_64 with --qemu" not in caught.value.advice


def test_closing_during_a_flood_is_quick(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(0.05)
    started_at = time.monotonic()
    with QmpConnection("source", ours, tmp_path / "qmp.log"), contextlib.suppress(OSError):
        while True:
            theirs.sendall(b'{"event": "X"}\n' * 1000)
    assert time.monotonic() - started_at < SOON_S
    theirs.close()
