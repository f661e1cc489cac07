"""Checks of the doctor for running natively: KVM, tun, vhost-net, rights."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cprlib.errors import CprlibError, InstrumentError
from cprlib.lab.schedule import parallel_tests
from cprlib.linux.cgroup import cpu_limit, memory_limit_mib, usable_cores, usable_memory_mib
from cprlib.linux.ioctls import VHOST_SET_OWNER
from cprlib.linux.kernel_trace import reads_of_taps
from cprlib.linux.libc import KCMP_NUMBERS, duplicate_descriptor, same_open_file, unshare_network
from cprlib.linux.procfs import read_text
from cprlib.linux.tap import open_tap
from cprlib.linux.tracefs import EventUnusable
from cprlib.process import run

ENOUGH_MEMORY_MIB = 2048
FIRST_PID_NAMESPACE = 0xEFFFFFFC  # linux/proc_ns.h PROC_PID_INIT_INO
CAP_SYS_PTRACE = 19  # linux/capability.h
CHILDS_DESCRIPTOR = 0  # any that every child has
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
ACCESS_ADVICE = "get access to that file or folder; CPRLIB_CACHE and TMPDIR name other folders"
SECCOMP_ADVICE = "a seccomp filter of this container refuses it: run it with --cap-add SYS_PTRACE, or use the lab"

Area = Literal["native", "lab", "both"]


class Level(enum.StrEnum):
    """Result of a check."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One check.

    :param area: affected backend: ``"native"``, ``"lab"``, or ``"both"``.
    :param name: the check's.
    :param level: ``fail`` means that the backend cannot be used.
    :param seen: the observation.
    :param advice: what the user can do; may be empty.
    """

    area: Area
    name: str
    level: Level
    seen: str
    advice: str = ""


Result = tuple[Level, str, str]  # of a check: level, seen, advice


def examine(area: Area, name: str, check: Callable[[], Diagnosis]) -> Diagnosis:
    """Run one check; what it cannot look at is a failure, not the end of the report."""
    try:
        return check()
    except OSError as error:
        return Diagnosis(area, name, Level.FAIL, f"cannot be checked: {error}", ACCESS_ADVICE)


def _diagnose(area: Area, name: str, check: Callable[[], Result]) -> Diagnosis:
    return examine(area, name, lambda: Diagnosis(area, name, *check()))


def check_native() -> list[Diagnosis]:
    """All checks, in the order of the report."""
    checks: tuple[tuple[Area, str, Callable[[], Result]], ...] = (
        *(("native", name, check) for name, check in _native_checks().items()),
        ("both", "rights", check_rights),
        ("both", "memory", check_memory),
        ("both", "processors", check_processors),
    )
    return [_diagnose(area, name, check) for area, name, check in checks]


def supports_native() -> bool:
    """Whether tests can run natively; needs the standard library only."""
    checks = _native_checks().items()
    return all(_diagnose("native", name, check).level is not Level.FAIL for name, check in checks)


def _native_checks() -> dict[str, Callable[[], Result]]:
    return {
        "KVM": check_kvm,
        "network namespaces": check_namespaces,
        "tap devices": check_tun,
        "vhost-net": check_vhost,
        "process ids": check_process_ids,
        "kcmp": check_kcmp,
        "copies of descriptors": check_copies,
        "drop tracepoint": check_tracefs,
    }


def check_kvm() -> Result:
    """Run a few instructions in KVM."""
    if not Path("/dev/kvm").exists():
        return Level.FAIL, "/dev/kvm does not exist", "enable virtualisation, load kvm_intel or kvm_amd"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Level.FAIL, "no access to /dev/kvm", "join the group kvm"
    program = Path(__file__).with_name("kvm_probe.py")
    try:
        output = run([sys.executable, "-I", "-S", str(program)], purpose="run a program in KVM", seconds=5).strip()
    except CprlibError as error:
        output = error.happened
    if output != "ok":
        return Level.FAIL, f"/dev/kvm does not run a program: {output}", "tests run in a lab"
    if platform.machine() == "x86_64" and not _cpu_flags() & {"vmx", "svm"}:
        seen = "paravirtual: the processor has neither VMX nor SVM, and ordinary kernels die in such a KVM"
        return Level.FAIL, seen, "use a host with (nested) hardware virtualisation, or the lab"
    return Level.PASS, "runs a program", ""


def _cpu_flags() -> set[str]:
    lines = read_text(Path("/proc/cpuinfo")).splitlines()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def check_namespaces() -> Result:
    """Create a network namespace, which takes CAP_SYS_ADMIN."""
    if _in_child(unshare_network):
        return Level.PASS, "can be created", ""
    seen = "need CAP_SYS_ADMIN here"
    if _in_child(lambda: unshare_network(user=True)):
        seen += ", or a user namespace, which may have no access to /dev/vhost-net"
    return Level.FAIL, seen, "run as root, in a container with CAP_SYS_ADMIN; or use the lab, which needs no rights"


def check_tun() -> Result:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return _cannot_open("/dev/net/tun", "tun", error)

    def make() -> None:
        unshare_network()
        open_tap("cprlib-probe")  # reopened: a tap belongs to the namespace of its opener

    if _in_child(make):
        return Level.PASS, "can be created", ""
    return Level.FAIL, "/dev/net/tun opens, but no tap can be created", "get CAP_NET_ADMIN"


def check_vhost() -> Result:
    """Become the owner of a vhost-net device."""
    try:
        descriptor = os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return _cannot_open("/dev/vhost-net", "vhost_net", error)
    try:
        fcntl.ioctl(descriptor, VHOST_SET_OWNER)
    except OSError as error:
        advice = "raise the limits on processes and memory: vhost starts a worker; or use the lab"
        return Level.FAIL, f"VHOST_SET_OWNER fails: {error.strerror}", advice
    finally:
        os.close(descriptor)
    return Level.PASS, "accepts an owner", ""


def _cannot_open(device: str, module: str, error: OSError) -> Result:
    refused = error.errno in (errno.EACCES, errno.EPERM)
    advice = f"get access to {device}" if refused else f"load the module {module}"
    return Level.FAIL, f"{device}: {error.strerror}", advice


def check_process_ids(namespace: Path = Path("/proc/self/ns/pid")) -> Result:
    """Look for a PID namespace of a container: vhost's workers are named after QEMU's number in the first one."""
    if namespace.stat().st_ino == FIRST_PID_NAMESPACE:
        return Level.PASS, "the first PID namespace", ""
    seen = "a PID namespace of its own: the workers of vhost-net, vhost-PID, have other numbers than QEMU has here"
    return Level.FAIL, seen, "start the container with --pid=host, or use the lab"


def check_kcmp() -> Result:
    """Compare descriptors of two processes by kcmp(2), the proof that they are one open file."""
    if platform.machine() not in KCMP_NUMBERS:
        return Level.WARN, f"its number is not known for {platform.machine()}", ""

    def compare() -> None:
        if not same_open_file(os.getpid(), fd, parent, fd):
            raise InstrumentError("compare a descriptor with itself", "kcmp reports another file")

    with open("/dev/null", "rb") as same:
        fd, parent = same.fileno(), os.getpid()
        equal = _in_child(compare)
    if equal:
        return Level.PASS, "compares descriptors of two processes", ""
    return Level.FAIL, "cannot compare descriptors of two processes", kcmp_advice()


def check_copies() -> Result:
    """Copy a descriptor of a child by pidfd_getfd(2), as tests do with those of a QEMU."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        os.close(duplicate_descriptor(child, CHILDS_DESCRIPTOR))
    except OSError as error:
        return Level.FAIL, f"pidfd_getfd: {error.strerror}", ptrace_advice()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return Level.PASS, "can be made of a child's", ""


def kcmp_advice(root: Path = Path("/")) -> str:
    """What to do where kcmp(2) fails.

    :param root: root of the file system; another one for tests.
    """
    return SECCOMP_ADVICE if _is_filtered(root) else "use a kernel with CONFIG_KCMP, or the lab"


def _is_filtered(root: Path) -> bool:
    return _status(root).get("Seccomp", "0").strip() == "2"


def _status(root: Path) -> dict[str, str]:
    return dict(line.partition(":")[::2] for line in read_text(root / "proc/self/status").splitlines())


def ptrace_advice(root: Path = Path("/")) -> str:
    """Why a process may not trace its child here, and what to do.

    :param root: root of the file system; another one for tests.
    """
    scope = read_text(root / "proc/sys/kernel/yama/ptrace_scope").strip()
    may_trace = int(_status(root).get("CapEff", "0"), 16) >> CAP_SYS_PTRACE & 1
    if scope == "3":
        return "kernel.yama.ptrace_scope is 3, which only a reboot changes: set it to 1 at boot, or use the lab"
    if scope == "2" and not may_trace:
        return "kernel.yama.ptrace_scope is 2: run as root, or sysctl kernel.yama.ptrace_scope=1"
    return SECCOMP_ADVICE if _is_filtered(root) else "get the right to trace processes (CAP_SYS_PTRACE), or use the lab"


def check_tracefs(roots: Sequence[Path] = TRACEFS) -> Result:
    """Find the tracepoints that report why a packet was dropped, and who reads a tap."""
    for root in roots:
        if not read_text(root / "events/skb/kfree_skb/format"):
            continue
        try:
            reads_of_taps(read_text(root / "events/skb/consume_skb/format"))
        except EventUnusable as error:
            return Level.WARN, f"skb:kfree_skb in {root}; skb:consume_skb {error}", "use Linux 6.3 or newer, or the lab"
        return Level.PASS, f"skb:kfree_skb in {root}", ""
    seen = "no skb:kfree_skb: losses inside the kernel are reported without a reason"
    return Level.WARN, seen, "mount -t tracefs tracefs /sys/kernel/tracing, as root"


def check_rights() -> Result:
    """Report what a user without root rights cannot test here."""
    if os.geteuid() == 0:
        return Level.PASS, "root", ""
    seen = (
        f"user {os.geteuid()}: a lab tests QEMU with its own kernel's tun and vhost-net; not this host's kernel, KVM, "
        "bridges and drivers, nor its speed, and packages cannot be installed"
    )
    return Level.WARN, seen, "see docs/safety.md, section Without root"


def check_memory(root: Path = Path("/")) -> Result:
    """Check memory for source, target and, in a lab, its kernel."""
    available, limit = usable_memory_mib(root), memory_limit_mib(root)
    seen = f"{available} MiB available" + (f" of {limit} MiB in a control group" if limit is not None else "")
    if available >= ENOUGH_MEMORY_MIB:
        return Level.PASS, seen, ""
    advice = f"{ENOUGH_MEMORY_MIB} MiB for each parallel test are recommended"
    more = ": give the container more memory (memory.max), or --parallel 1"
    return Level.WARN, seen, advice + (more if limit is not None else "")


def check_processors(root: Path = Path("/")) -> Result:
    """Say how many tests run at once in labs, and why not more."""
    cores, own = usable_cores(root), len(os.sched_getaffinity(0))
    seen = f"{cores} of {own} usable, {parallel_tests('uml', root)} labs at once"
    if cores == own:
        return Level.PASS, seen, ""
    seen += f": the quota of a control group pays for {cpu_limit(root):g}"
    return Level.WARN, seen, "give the container more CPU time (cpu.max)"


def _in_child(check: Callable[[], None]) -> bool:
    """Run a check in a child process, whose state it may change; False when it raises."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            check()
            status = 0
        os._exit(status)
    return os.waitpid(child, 0)[1] == 0
