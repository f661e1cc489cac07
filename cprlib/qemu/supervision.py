"""Supervision of a QEMU process: size limits of its log files, and core file and backtrace when it crashes."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import CprlibError
from cprlib.files import write_text
from cprlib.linux.procfs import read_text
from cprlib.process import describe_status, run, tail

CRASH_SIGNALS = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS")  # the last by -sandbox
CRASH_STATUSES = frozenset(-signal.Signals[name] for name in CRASH_SIGNALS)
CORE_LIMIT = 1 << 30  # bytes; the kernel truncates a larger core
CORE_FILTER = "0x31"  # core(5): private anonymous memory, ELF headers, private huge pages; not the guest's RAM
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
GDB_SECONDS = 60.0
EXIT_SECONDS = 30.0
PF_EXITING = 0x4  # linux/sched.h
PROGRAM_HEADERS = struct.Struct("<32xQ")  # elf.h: Elf64_Ehdr; the first one of a core file is of its notes
NOTES = struct.Struct("<8xQ16xQ")  # Elf64_Phdr: their offset in the file, their size
SIGNAL_FRAME = struct.Struct("<4sIQI")  # asm/sigcontext.h: struct _fpx_sw_bytes: magic, size, features, size of state
SIGNAL_FRAME_MAGIC = b"SXPF"  # FP_XSTATE_MAGIC1
MAX_BACKTRACE = 200_000  # characters
MAX_FRAMES = 64
WATCH_INTERVAL_S = 0.25
CONSOLE_LIMIT = 32 << 20  # bytes; a guest writes about 30 KiB during boot and measurement
LOG_LIMIT = 256 << 20  # bytes


class SizeWatch:
    """Watch the sizes of files while a process writes them, as a context manager.

    A guest may write to its console without end: its QEMU is killed before the disk is full.

    :param limits: largest size of each file, in bytes.
    :param kill: called once, when a file exceeds its limit.
    """

    def __init__(self, limits: Mapping[Path, int], kill: Callable[[], None]) -> None:
        self._limits = dict(limits)
        self._kill = kill
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="size-watch", daemon=True)
        self.exceeded: Path | None = None

    def add(self, limits: Mapping[Path, int]) -> None:
        self._limits = {**self._limits, **limits}

    def __enter__(self) -> SizeWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_INTERVAL_S):
            for path, limit in self._limits.items():
                with contextlib.suppress(OSError):
                    if path.stat().st_size > limit:
                        self.exceeded = path
                        self._kill()
                        return


def allow_core() -> None:
    """In a child, before exec: allow a core file without the guest's RAM. Never raises."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        limit = CORE_LIMIT if hard == resource.RLIM_INFINITY else min(hard, CORE_LIMIT)
        resource.setrlimit(resource.RLIMIT_CORE, (limit, hard))
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/coredump_filter", os.O_WRONLY)
        os.write(descriptor, CORE_FILTER.encode())
        os.close(descriptor)


def wait_while_exiting(process: subprocess.Popen[str], pid: int) -> int | None:
    """Wait for a process that writes its core or exits.

    :param process: the one that was started; :param pid: QEMU's, which is the same or a child of it.
    :returns: its exit status; None when it does neither, or takes longer than :data:`EXIT_SECONDS`.
    """
    deadline = Deadline(EXIT_SECONDS, "a crashed QEMU to exit")
    while process.poll() is None and not deadline.expired:
        stat, status = (read_text(Path(f"/proc/{pid}/{name}")) for name in ("stat", "status"))
        if not (stat and status):
            break
        if not int(stat.rpartition(")")[2].split()[6]) & PF_EXITING and "CoreDumping:\t1" not in status:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    return process.poll()


def keep_crash(folder: Path, name: str, pid: int, status: int | None, program: Path) -> Path | None:
    """Keep ``core-NAME`` and ``backtrace-NAME.txt`` of a crash, once. Never raises.

    :param folder: that of the evidence, in which the process was started.
    :param status: exit status, negative for a signal; None while it runs.
    :returns: the text file, which holds the backtrace or says why there is none; None when it did not crash.
    """
    text = folder / f"backtrace-{name}.txt"
    if status is None or status not in CRASH_STATUSES:
        return None
    if not text.exists():
        with contextlib.suppress(CprlibError, OSError):
            core = _keep_core(folder, name, pid)
            content = _why_no_core() if core is None else _backtrace(program, core)
            write_text(text, f"{describe_status(status)}\n{tail(content, MAX_BACKTRACE)}\n", mode=0o600)
    return text


def _keep_core(folder: Path, name: str, pid: int) -> Path | None:
    """Rename the core file; core_pattern may have added the pid to its name."""
    for found in (folder / f"core.{pid}", folder / "core"):
        if found.is_file() and found.stat().st_size:
            core = folder / f"core-{name}"
            found.rename(core)
            core.chmod(0o600)
            _correct_registers(core)
            return core
    return None


def _why_no_core() -> str:
    try:
        pattern = CORE_PATTERN.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        pattern = f"unknown: {error}"
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    advice = "it pipes cores to that program (coredumpctl)" if pattern.startswith("|") else "set it to a plain `core`"
    return f"no core file: the kernel's core_pattern is {pattern!r}, the hard limit is {hard}; {advice}"


def _backtrace(program: Path, core: Path) -> str:
    """Frames of all threads, by gdb without its start-up files."""
    gdb = shutil.which("gdb")
    if gdb is None:
        return f"{core.name} is kept; no backtrace: gdb is not installed"
    command = [gdb, "-nx", "-nh", "-batch", "-iex", "set auto-load no", "-iex", "set debuginfod enabled off"]
    command += ["-ex", f"thread apply all backtrace {MAX_FRAMES}", str(program), str(core)]
    try:
        text = run(command, purpose="make a backtrace", seconds=GDB_SECONDS, env={"PATH": os.environ.get("PATH", "")})
    except CprlibError as error:
        return f"{core.name} is kept; no backtrace: {error.one_line()}\n{error.details}"
    return text if "#0" in text else f"{core.name} is kept; no backtrace: gdb finds no frame in it\n{text}"


def _correct_registers(core: Path) -> None:
    """Let gdb read a core file of user-mode Linux.

    In its notes about registers (NT_X86_XSTATE), that kernel leaves what a signal frame has where the features belong
    (I386_LINUX_XSAVE_XCR0_OFFSET of gdb, which refuses the file then).
    """
    with core.open("r+b") as file, contextlib.suppress(struct.error):  # of a file that was cut off
        file.seek(PROGRAM_HEADERS.unpack(file.read(PROGRAM_HEADERS.size))[0])
        offset, size = NOTES.unpack(file.read(NOTES.size))
        file.seek(offset)
        notes = bytearray(file.read(size))
        at = notes.find(SIGNAL_FRAME_MAGIC)
        while 0 <= at <= size - SIGNAL_FRAME.size:
            _, whole, features, inner = SIGNAL_FRAME.unpack_from(notes, at)
            if whole == inner + 4:  # FP_XSTATE_MAGIC2_SIZE
                struct.pack_into("<Q", notes, at, features)
            at = notes.find(SIGNAL_FRAME_MAGIC, at + 1)
        file.seek(offset)
        file.write(notes)
