"""QEMU below a wrapper: its process, its exit status and its last message."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cprlib.deadline import Deadline
from cprlib.linux import procfs
from cprlib.linux.procfs import children_of
from cprlib.qemu.wrapper import is_script, last_message, qemu_below, status_of_qemu

WORD = "cprlib-source"


@pytest.mark.parametrize(
    ("status", "qemus"), [(0, 0), (1, 1), (-6, -6), (134, -signal.SIGABRT), (137, -signal.SIGKILL), (255, 255)]
)
def test_a_shell_reports_a_signal_as_128_and_its_number(status: int, qemus: int) -> None:
    assert status_of_qemu(status) == qemus


def last_with_word(pid: int) -> int | None:
    """The process above ``sleep``, which does not have the word; None until that runs."""
    for child in children_of(pid):
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        if words[0] == "sleep":
            return pid
        if (found := last_with_word(child)) is not None:
            return found if WORD in Path(f"/proc/{found}/cmdline").read_text().split("\0") else pid
    return None


@pytest.mark.parametrize("script", ['sleep 60; : "$@"', 'sh -c "sleep 60; :" sh "$@"; :', "sh -c 'sleep 60; :'; :"])
def test_the_last_process_with_the_word_is_qemu(script: str) -> None:
    """Other children of a wrapper, or of QEMU itself, do not have it."""
    with subprocess.Popen(["sh", "-c", script, "wrapper", WORD], start_new_session=True) as wrapper:
        try:
            found = Deadline(10, "the processes to run").poll(lambda: last_with_word(wrapper.pid))
            assert qemu_below(wrapper.pid, WORD) == found
        finally:
            os.killpg(wrapper.pid, signal.SIGKILL)


def test_a_kernel_without_lists_of_children_has_parents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert child.pid in children_of(os.getpid())
            monkeypatch.setattr(procfs, "Path", lambda name: tmp_path if "/task/" in name else Path(name))
            monkeypatch.setattr(Path, "read_text", _without_directories)
            assert child.pid in children_of(os.getpid())
        finally:
            child.kill()


def _without_directories(path: Path, **_: object) -> str:
    if path.is_dir():
        raise FileNotFoundError(path)
    return path.read_bytes().decode("utf-8", "replace")


def test_words_of_a_shell_are_not_qemus() -> None:
    assert last_message("qemu: assertion failed\nAborted (core dumped)\n") == "qemu: assertion failed"
    assert last_message("qemu: bad\nw: line 4: 12 Aborted   /usr/bin/qemu -name x\n") == "qemu: bad"
    assert last_message("Aborted") == "Aborted"
    assert last_message("") == ""


def test_a_script_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert is_script(tmp_path / "script")
    assert not is_script(Path("/bin/sh"))
    assert not is_script(tmp_path / "gone")
