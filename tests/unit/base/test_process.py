"""Children end with their parent, and a failure says what ran and what it said."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, EnvironmentFailure, ProcessFailed
from cprlib.process import Child, describe_status, kill_group, run, spawn, wait_until_exit


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_failure_has_last_line_and_command() -> None:
    with pytest.raises(ProcessFailed, match="exit status 3: bad luck") as caught:
        run([sys.executable, "-c", "import sys; print('bad luck', file=sys.stderr); sys.exit(3)"], purpose="try")
    assert caught.value.returncode == 3
    assert "command: " in caught.value.details
    assert "\n" not in caught.value.one_line()


def test_missing_program_is_the_environment() -> None:
    with pytest.raises(EnvironmentFailure, match="nonexistent-program"):
        run(["nonexistent-program"], purpose="try")


def test_deadline_kills_the_whole_group(tmp_path: Path) -> None:
    child = (
        "import subprocess, sys\n"
        "grandchild = subprocess.Popen(['sleep', '60'])\n"
        "print(grandchild.pid, file=open(sys.argv[1], 'w'), flush=True)\n"
        "grandchild.wait()\n"
    )
    note = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded):
        run([sys.executable, "-c", child, str(note)], purpose="try", seconds=1.5)
    grandchild = int(note.read_text())
    Deadline(5, "the grandchild's end").poll(lambda: not alive(grandchild))


def test_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    harness = (
        "import sys,time\n"
        "from cprlib.process import spawn\n"
        "with spawn(['sleep','60'], purpose='sleep') as child:\n"
        "    open(sys.argv[1],'w').write(str(child.pid))\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", harness, str(note)])
    Deadline(10, "the child's start").poll(lambda: note.exists() and note.read_text())
    child = int(note.read_text())
    assert alive(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    Deadline(5, "the child's end").poll(lambda: not alive(child))


def test_status_names_the_signal() -> None:
    assert describe_status(-11) == "killed by SIGSEGV"
    assert describe_status(2) == "exit status 2"


def test_waiting_for_an_end_has_a_deadline() -> None:
    with spawn(["sleep", "60"], purpose="sleep") as child:
        with pytest.raises(DeadlineExceeded, match="still running"):
            wait_until_exit(child, Deadline(0.1, "the end of sleep"))
        child.send_signal(signal.SIGKILL)
        assert wait_until_exit(child, Deadline(5, "the end of sleep")) == -signal.SIGKILL


def test_deadline_scale_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRLIB_TIMEOUT_SCALE", "2")
    assert Deadline(3, "x").seconds == 6
    monkeypatch.setenv("CPRLIB_TIMEOUT_SCALE", "soon")
    with pytest.raises(Exception, match="not a number"):
        Deadline(3, "x")


def test_poll_gives_the_first_true_value() -> None:
    values = iter((None, False, 0, "", 7))
    assert Deadline(5, "a value").poll(lambda: next(values)) == 7


@pytest.mark.parametrize("kill", [kill_group, subprocess.Popen.kill])
def test_a_child_that_another_process_kills_is_distinguished(kill: Callable[[Child], None]) -> None:
    with spawn(["sleep", "60"], purpose="sleep") as child:
        kill(child)
        wait_until_exit(child, Deadline(5, "the end of sleep"))
    assert child.killed_here == (kill is kill_group)
