"""Child processes as context managers: deadline, death with the parent, captured output.

An error shows the command line in shell syntax and the signal, so that a reader can repeat it by hand.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import EnvironmentFailure, ProcessFailed

PR_SET_PDEATHSIG = 1  # linux/prctl.h
OUTPUT_KEPT = 4000  # characters of a child's output that an error carries
MARK_VARIABLE = "CPRLIB_MARK"  # marks the processes of one soak case; a new environment must contain it


def mark_environment() -> dict[str, str]:
    """The mark of this process, for a child with a new environment; empty when it has none."""
    return {MARK_VARIABLE: os.environ[MARK_VARIABLE]} if MARK_VARIABLE in os.environ else {}


def describe_status(returncode: int) -> str:
    """``"exit status 1"`` or ``"killed by SIGSEGV"``."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


def tail(text: str, characters: int = OUTPUT_KEPT) -> str:
    """The end of a text, from the start of a line if possible."""
    if len(text) <= characters:
        return text
    return "[...]\n" + text[-characters:].split("\n", 1)[-1]


class Child(subprocess.Popen[str]):
    """A child process.

    ``killed_here`` says that the harness has ended it, by :func:`kill_group` or a fault. Any other SIGKILL or SIGTERM
    came from outside.
    """

    killed_here = False


def run(
    command: Sequence[str],
    *,
    purpose: str,
    seconds: float = 60.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    advice: str = "",
) -> str:
    """Run a command to its end and return its standard output.

    :param purpose: what the command is for, as it reads after "cannot": ``"apply patch 3"``.
    :param seconds: deadline, scaled; then the whole process group is killed.
    :raises DeadlineExceeded: it did not end.
    :raises ProcessFailed: exit status other than 0; ``details`` has the command line and the output.
    :raises EnvironmentFailure: the program does not exist.
    """
    deadline = Deadline(seconds, purpose)
    with spawn(
        command,
        purpose=purpose,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            output, errors = child.communicate(timeout=deadline.remaining)
        except subprocess.TimeoutExpired as error:
            raise deadline.exceeded(details=f"command: {shlex.join(command)}") from error
    if child.returncode != 0:
        raise _failed(command, purpose, child.returncode, errors.strip() or output.strip(), advice)
    return str(output)


def run_unkilled(command: Sequence[str], *, purpose: str, env: Mapping[str, str]) -> None:
    """Run a command that must not be killed half-way, such as dpkg: it also survives the end of this process.

    Its output goes to a file, because writing to a pipe without a reader would kill it.

    :raises ProcessFailed: exit status other than 0; ``details`` has the command line and the output.
    :raises EnvironmentFailure: the program does not exist.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        try:
            child = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal to our group must not reach it
            )
        except OSError as error:
            raise EnvironmentFailure(purpose, str(error)) from error
        returncode = child.wait()
        output.seek(0)
        said = output.read().strip()
    if returncode != 0:
        raise _failed(command, purpose, returncode, said)


def _failed(command: Sequence[str], purpose: str, returncode: int, said: str, advice: str = "") -> ProcessFailed:
    last = said.splitlines()[-1] if said else "no output"
    return ProcessFailed(
        purpose,
        f"{command[0]}: {describe_status(returncode)}: {last}",
        advice,
        details=f"command: {shlex.join(command)}\n{tail(said)}",
        returncode=returncode,
    )


@contextlib.contextmanager
def spawn(
    command: Sequence[str],
    *,
    purpose: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | Any = subprocess.DEVNULL,
    stdout: int | Any = None,
    stderr: int | Any = None,
    pass_fds: Sequence[int] = (),
    umask: int = -1,
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[Child]:
    """Start a command in a new process group; at the end of the body the group is killed and the child reaped.

    The child dies with the thread that started it (PR_SET_PDEATHSIG), so that thread must live as long as the body.

    :param umask: the child's; the caller's when -1.
    :param prepare: called in the child before the program: system calls only, and it must not raise.
    :raises EnvironmentFailure: the program does not exist or may not be run.
    """
    bind = death_binding(os.getpid())

    def bind_and_prepare() -> None:
        bind()
        prepare()

    try:
        child = Child(
            command,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            umask=umask,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=bind_and_prepare,
        )
    except OSError as error:
        raise EnvironmentFailure(
            purpose, str(error), "install the program or correct its path", details=f"command: {shlex.join(command)}"
        ) from error
    try:
        yield child
    finally:
        kill_group(child)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def death_binding(parent: int) -> Callable[[], None]:
    """A function that lets the calling process be killed when its parent dies; at once if the parent is dead already.

    :param parent: process id of the parent.
    """
    prctl = ctypes.CDLL(None).prctl

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before prctl took effect
            os._exit(127)

    return bind


def die_with_parent() -> None:
    """Let this process, made by multiprocessing, be killed when its parent dies; nothing for another process."""
    import multiprocessing  # noqa: PLC0415 - only outside of a lab, where start-up time counts

    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        death_binding(parent.pid)()


def kill_group(child: Child) -> None:
    """Kill a child's whole process group and reap the child; harmless when both have ended."""
    if child.poll() is None:
        child.killed_here = True
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def wait_until_exit(child: subprocess.Popen[str], deadline: Deadline) -> int:
    """Wait until a child ends.

    :returns: its exit status, negative for a signal.
    :raises DeadlineExceeded: it is still running.
    """
    try:
        return child.wait(timeout=deadline.remaining)
    except subprocess.TimeoutExpired as error:
        raise deadline.exceeded(f"process {child.pid} is still running") from error


@contextlib.contextmanager
def terminate_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP, so that context managers clean up."""

    def raise_interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, raise_interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
