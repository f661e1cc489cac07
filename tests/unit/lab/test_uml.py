"""The host side of a user-mode Linux lab with a fake kernel."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cprlib.deadline import SCALE_VARIABLE
from cprlib.errors import DeadlineExceeded, LabFailure, LabLost
from cprlib.files import CACHE_VARIABLE
from cprlib.lab import session, uml
from cprlib.lab.engine import Attempt, LabCommand, LabStreams
from cprlib.lab.session import encode_job
from cprlib.lab.uml import LAYERS, UmlEngine, reserved_core
from cprlib.process import MARK_VARIABLE

FAKE = Path(__file__).with_name("fake_kernel.py")
LAYER_SETS = [LAYERS, ("landlock",), ("namespaces",)]


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """The fake kernel, executable by this Python."""
    program = tmp_path / "linux"
    program.write_text(f"#!{sys.executable}\n" + FAKE.read_text().split("\n", 1)[1])
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


class Heard:
    """Output of a lab."""

    def __init__(self, signals: int | None = None) -> None:
        self.out, self.err = bytearray(), bytearray()
        self.streams = LabStreams(self.out.extend, self.err.extend, signals=signals)


def attempt(
    kernel: Path, *argv: str, layers: tuple[str, ...] = LAYERS, heard: Heard | None = None, **more: object
) -> Attempt:
    command = LabCommand(argv, Path("/"), {}, **more)  # type: ignore[arg-type]
    return UmlEngine(kernel, Path("/init"), layers).attempt(command, (heard or Heard()).streams)


def test_job_is_a_multiple_of_sectors() -> None:
    command = LabCommand(("run", "a b\nc"), Path("/work"), {"A": "1"}, results=Path("/out"), terminal=(25, 80))
    job = encode_job(command, "/proc/self/fd/9/.")
    assert len(job) % 512 == 0
    tokens = job.rstrip(b"\0").split(b"\0")
    assert tokens[0] == b"cprlab1"
    assert tokens[-1] == b"Q"
    for token in (b"Arun", b"Aa b\nc", b"EA=1", b"C/work", b"r/proc/self/fd/9/.", b"R/out", b"Y25 80"):
        assert token in tokens


def test_job_with_nul_is_refused() -> None:
    with pytest.raises(LabFailure, match="NUL"):
        encode_job(LabCommand(("a\0b",), Path("/"), {}), "")


def test_kernel_has_the_mark_of_its_session(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK_VARIABLE, "/soaks/x/17")
    monkeypatch.setenv("SECRET", "x")
    shown = f'test "${MARK_VARIABLE}" = /soaks/x/17 && test -z "$SECRET"'
    assert attempt(kernel, "shell", shown).returncode == 0


def test_output_and_exit_status_are_received(kernel: Path) -> None:
    heard = Heard()
    result = attempt(kernel, "speak", heard=heard)
    assert (result.returncode, bytes(heard.out), bytes(heard.err)) == (7, b"out", b"err")
    assert result.boot_ms > 0


def test_command_killed_by_a_signal_is_no_lost_lab(kernel: Path) -> None:
    assert attempt(kernel, "signal").returncode == -9


@pytest.mark.parametrize(
    ("deed", "words"),
    [("die-booting", "died while booting .killed by SIGKILL"), ("panic", "died under its command .*tired of life")],
)
def test_dead_kernel_is_a_lost_lab(kernel: Path, deed: str, words: str) -> None:
    with pytest.raises(LabLost, match=words) as caught:
        attempt(kernel, deed)
    assert "Linux version 0" in caught.value.details


def test_lab_that_cannot_be_set_up_is_not_lost(kernel: Path) -> None:
    with pytest.raises(LabFailure, match="mount /proc: No such device") as caught:
        attempt(kernel, "broken")
    assert not isinstance(caught.value, LabLost)


def test_missing_kernel_is_a_lab_failure(tmp_path: Path) -> None:
    with pytest.raises(LabFailure, match="No such file") as caught:
        attempt(tmp_path / "absent", "speak")
    assert not isinstance(caught.value, LabLost)


@pytest.mark.parametrize("layers", LAYER_SETS)
def test_only_the_results_folder_is_writable(kernel: Path, tmp_path: Path, layers: tuple[str, ...]) -> None:
    results = tmp_path / "results, and \u00fcml"
    results.mkdir()
    other = tmp_path / "precious"
    other.write_text("kept")
    other.chmod(0o640)
    assert attempt(kernel, "write", "evidence.txt", layers=layers, results=results).returncode == 0
    assert (results / "evidence.txt").read_text() == "evidence"
    deeds = f"echo lost > {other}; rm -f {other}; chmod 777 {other}; touch {tmp_path}/new; ln -s x {tmp_path}/link"
    escape = f"echo lost > /proc/{os.getpid()}/root{other}"
    attempt(kernel, "shell", f"{deeds}; {escape}; true", layers=layers, results=results)
    assert other.read_text() == "kept"
    assert stat.S_IMODE(other.stat().st_mode) == 0o640
    assert {entry.name for entry in tmp_path.iterdir()} == {results.name, "precious", "linux"}


@pytest.mark.parametrize("layers", LAYER_SETS)
def test_results_folder_gets_no_special_files(kernel: Path, tmp_path: Path, layers: tuple[str, ...]) -> None:
    """A program of the host would follow a link, or wait for a pipe."""
    results, heard = tmp_path / "results", Heard()
    results.mkdir()
    attempt(kernel, "special-files", layers=layers, results=results, heard=heard)
    assert heard.out == b"refused refused "
    assert list(results.iterdir()) == []


def test_layers_in_force_are_reported(kernel: Path) -> None:
    reports: list[Mapping[str, Any]] = []
    streams = LabStreams(bytearray().extend, bytearray().extend, confined=reports.append)
    UmlEngine(kernel, Path("/init"), ()).attempt(LabCommand(("speak",), Path("/"), {}), streams)
    (report,) = reports
    assert (report["namespaces"], report["readonly"], report["landlock"]) == (False, False, 0)


def test_lab_has_no_network(kernel: Path) -> None:
    if shutil.which("ip") is None:
        pytest.skip("no ip command to look with")
    reports: list[Mapping[str, Any]] = []
    streams = LabStreams(bytearray().extend, bytearray().extend, confined=reports.append)
    script = "test -n \"$(ip -o link)\" && ! ip -o link | grep -v ' lo:' | grep -q UP"
    done = UmlEngine(kernel, Path("/init")).attempt(LabCommand(("shell", script), Path("/"), {}), streams)
    if not reports[0]["namespaces"]:
        pytest.skip("no namespaces here: the lab shares the host's network")
    assert done.returncode == 0


def test_signals_are_passed_on(kernel: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"T")
    heard = Heard(reader)
    try:
        assert attempt(kernel, "wait", heard=heard).returncode == 3
    finally:
        os.close(reader)
        os.close(writer)
    assert heard.out == b"T"


def test_slow_command_gets_sigterm_then_is_killed(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SCALE_VARIABLE, raising=False)
    monkeypatch.setattr(session, "GRACE_SECONDS", 0.2)
    assert attempt(kernel, "wait", seconds=0.2).returncode == 3
    with pytest.raises(DeadlineExceeded, match="after SIGTERM"):
        attempt(kernel, "deaf", seconds=0.2)


def test_limit_holds_while_output_flows(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCALE_VARIABLE, "2")
    monkeypatch.setattr(session, "GRACE_SECONDS", 0.6)
    end = time.monotonic() + 10

    def read_slowly(_: bytes) -> None:
        assert time.monotonic() < end, "the limit has no effect"
        time.sleep(0.02)

    command = LabCommand(("flood",), Path("/"), {}, seconds=0.2)
    with pytest.raises(DeadlineExceeded, match=r"nothing after 0.4 s \(nor within 1 s after SIGTERM"):
        UmlEngine(kernel, Path("/init")).attempt(command, LabStreams(read_slowly, read_slowly))


def test_no_room_for_memory_is_reported(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uml, "places_for_memory", lambda: ["/dev/shm", "/nowhere"])  # noqa: S108
    with pytest.raises(LabFailure, match="/nowhere: No such file"):
        attempt(kernel, "speak", layers=("landlock",), memory=1 << 30)


def test_memory_on_disk_leaves_no_file(kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(uml, "places_for_memory", lambda: [str(place)])
    assert attempt(kernel, "speak", layers=("landlock",), memory=64).returncode == 7
    with pytest.raises(LabLost):
        attempt(kernel, "die-booting", layers=("landlock",), memory=64)
    assert list(place.iterdir()) == []


def test_interrupted_boot_leaves_no_folder(kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(uml, "places_for_memory", lambda: [str(place)])
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            attempt(kernel, "boot-slowly", layers=("landlock",), memory=64)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert list(place.iterdir()) == []


def test_no_process_or_file_is_left_when_the_caller_is_killed(kernel: Path, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from cprlib.lab.uml import *; from cprlib.lab.engine import *;"
        f"UmlEngine(Path({str(kernel)!r}), Path('/init')).attempt("
        "LabCommand(('deaf',), Path('/'), {}), standard_streams())"
    )
    child = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(tmp_path)})

    def labs() -> list[str]:
        found = []
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = line.read_bytes()
            except OSError:
                continue
            if os.fsencode(kernel) in words:
                found.append(line.parent.name)
        return found

    end = time.monotonic() + 20
    while len(labs()) < 3 and time.monotonic() < end:  # the caller, the launcher, the kernel
        time.sleep(0.02)
    child.kill()
    child.wait()
    while labs() and time.monotonic() < end:
        time.sleep(0.02)
    assert labs() == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["linux"]


def test_each_lab_reserves_another_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    cores = os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        assert {stack.enter_context(reserved_core()) for _ in cores} == cores
        assert stack.enter_context(reserved_core()) in cores
    with contextlib.ExitStack() as stack:
        assert {stack.enter_context(reserved_core()) for _ in cores} == cores


def test_error_ends_the_reservation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(BlockingIOError, match="body"), reserved_core():
        raise BlockingIOError("body")
    cores = os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        assert {stack.enter_context(reserved_core()) for _ in cores} == cores


def test_labs_of_two_users_get_different_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a cache of its own, and no lock of the other one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    taken = set()
    for user in range(20):
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / str(user)))
        with reserved_core() as core:
            taken.add(core)
    assert len(taken) > 1


def test_read_only_cache_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with reserved_core() as core:
        assert core in os.sched_getaffinity(0)
