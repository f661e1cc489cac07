"""Run long commands of a build: output goes to a log and, line by line, to a callback that shows progress."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import BuildFailed, EnvironmentFailure
from cprlib.process import describe_status, kill_group, mark_environment, spawn, tail

# Others could change what a compiler, make, ninja or the kernel's Makefile does, and are in no key of the store: CC,
# CPATH, LIBRARY_PATH, PKG_CONFIG_PATH, LD, MAKEFLAGS, KCPPFLAGS, LOCALVERSION and many more.
KEPT_VARIABLES = ("HOME", "LOGNAME", "PATH", "TMPDIR", "USER")
ERROR_MARKS = (
    " error: ",  # gcc
    "ERROR:",  # meson, configure
    "fatal error",
    "undefined reference",
    "No space left on device",
    "*** ",  # make
    "FAILED",  # patch
    "malformed patch",
)


def build_environment() -> dict[str, str]:
    """The environment of compilers and build tools, without settings of the caller that change what they make.

    No compiler cache: it makes the first build a fifth slower, and later builds reuse the source tree.
    """
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {**kept, **mark_environment(), "LC_ALL": "C.UTF-8", "CCACHE_DISABLE": "1"}


def run_logged(
    command: Sequence[str],
    *,
    purpose: str,
    log: Path,
    seconds: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Run a command and append its output and errors to ``log``.

    :param purpose: as it reads after "cannot": ``"compile QEMU 10.0"``.
    :param seconds: deadline, scaled; the whole process group is killed after it.
    :param on_line: called with every line of output.
    :raises BuildFailed: exit status other than 0; holds the line with the cause, and names the log.
    :raises DeadlineExceeded: the command did not end in time.
    """
    deadline = Deadline(seconds, purpose)
    lines: list[str] = []
    with (
        log.open("a", encoding="utf-8") as copy,
        spawn(command, purpose=purpose, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child,
    ):
        copy.write(f"$ {shlex.join(command)}\n")
        timer = threading.Timer(deadline.remaining, kill_group, [child])
        timer.daemon = True
        timer.start()
        try:
            if child.stdout is None:
                raise EnvironmentFailure(purpose, "no pipe to read its output from")
            for line in child.stdout:
                copy.write(line)
                lines.append(line)
                if on_line is not None:
                    on_line(line.rstrip())
            returncode = child.wait()
        finally:
            timer.cancel()
    if deadline.expired:
        raise deadline.exceeded(details=f"command: {shlex.join(command)}")
    if returncode != 0:
        output = "".join(lines)
        raise BuildFailed(
            purpose,
            f"{command[0]}: {describe_status(returncode)}: {error_line(output)}",
            f"the whole output is in {log}",
            details=f"command: {shlex.join(command)}\n{tail(output)}",
        )


def error_line(output: str) -> str:
    """The first line with a known error mark, the marks in their order; else the last line.

    ninja prints ``FAILED: x.o`` before the compiler's own words.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    marked = (line for mark in ERROR_MARKS for line in lines if mark in f" {line}")
    return next(marked, lines[-1] if lines else "no output")


def first_line_of(command: Sequence[str]) -> str:
    """First line of the output of a tool, usually its version; empty when the tool is not installed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).partition("\n")[0]
