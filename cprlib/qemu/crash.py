"""What is kept of a QEMU that crashed: its core file, and a backtrace where gdb is installed."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import CprlibError
from cprlib.files import write_text
from cprlib.process import run, tail

CRASHES = frozenset(
    -number for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
)
CORE_LIMIT = 1 << 30  # bytes; a core that would be larger is cut there by the kernel
CORE_FILTER = "0x31"  # core(5): private anonymous memory, ELF headers, private huge pages; not the guest's RAM
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
GDB_SECONDS = 60.0
ENDING_SECONDS = 30.0
PF_EXITING = 0x4  # linux/sched.h
BACKTRACE_KEPT = 200_000  # characters
FRAMES = 64


def allow_core() -> None:
    """In a child, before exec: a core file may be written, without the guest's RAM. Never raises."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        limit = CORE_LIMIT if hard == resource.RLIM_INFINITY else min(hard, CORE_LIMIT)
        resource.setrlimit(resource.RLIMIT_CORE, (limit, hard))
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/coredump_filter", os.O_WRONLY)
        os.write(descriptor, CORE_FILTER.encode())
        os.close(descriptor)


def wait_while_ending(process: subprocess.Popen[str]) -> int | None:
    """The status of a process, waited for while it writes its core or is on its way out; None when it is neither."""
    deadline = Deadline(ENDING_SECONDS, "a crashed QEMU to end")
    while process.poll() is None and not deadline.expired:
        try:
            stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            break
        if not int(stat.rpartition(")")[2].split()[6]) & PF_EXITING and "CoreDumping:\t1" not in status:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    return process.poll()


def keep_crash(folder: Path, name: str, pid: int, status: int | None, program: Path) -> Path | None:
    """Keep what there is of a crash: ``core-NAME`` and ``backtrace-NAME.txt``. Done once; never raises.

    :param folder: the evidence's, in which the process was started.
    :param status: how it ended: negative for a signal, None while it runs.
    :returns: the text, which says why there is no backtrace when there is none; None when it was no crash.
    """
    text = folder / f"backtrace-{name}.txt"
    if status not in CRASHES:
        return None
    if not text.exists():
        with contextlib.suppress(CprlibError, OSError):
            core = _core(folder, name, pid)
            said = _why_no_core() if core is None else _backtrace(program, core)
            write_text(text, tail(said, BACKTRACE_KEPT) + "\n", mode=0o600)
    return text


def _core(folder: Path, name: str, pid: int) -> Path | None:
    """The core file under its name in the evidence; core_pattern may have added the process's number."""
    for found in (folder / f"core.{pid}", folder / "core"):
        if found.is_file() and found.stat().st_size:
            kept = folder / f"core-{name}"
            found.rename(kept)
            kept.chmod(0o600)
            return kept
    return None


def _why_no_core() -> str:
    try:
        pattern = CORE_PATTERN.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        pattern = f"not known: {error}"
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    where = "look there (coredumpctl)" if pattern.startswith("|") else "a core is kept where that is a plain `core`"
    return f"no core file: the kernel's core_pattern is {pattern!r}, the hard limit {hard}; {where}"


def _backtrace(program: Path, core: Path) -> str:
    """All threads' frames, by gdb without any of its start-up files."""
    gdb = shutil.which("gdb")
    if gdb is None:
        return f"{core.name} is kept; no backtrace: gdb is not installed"
    command = [gdb, "-nx", "-nh", "-batch", "-iex", "set auto-load no", "-iex", "set debuginfod enabled off"]
    command += ["-ex", f"thread apply all backtrace {FRAMES}", str(program), str(core)]
    try:
        return run(command, purpose="make a backtrace", seconds=GDB_SECONDS, env={"PATH": os.environ.get("PATH", "")})
    except CprlibError as error:
        return f"{core.name} is kept; no backtrace: {error.one_line()}\n{error.details}"
