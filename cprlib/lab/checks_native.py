"""Checks of the doctor for running natively: KVM, tun, vhost-net, rights."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cprlib.errors import CprlibError, InstrumentError
from cprlib.linux.libc import KCMP_NUMBERS, same_open_file, unshare_network
from cprlib.linux.tap import open_tap
from cprlib.process import run

VHOST_SET_OWNER = 0xAF01  # linux/vhost.h
ENOUGH_MEMORY_MIB = 2048


class Level(enum.StrEnum):
    """Result of a check."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One check.

    :param area: affected backend: ``"native"``, ``"lab"``, or ``"both"``.
    :param name: of the check.
    :param level: ``fail`` means that the backend cannot be used.
    :param seen: the observation.
    :param advice: what the user can do; may be empty.
    """

    area: Literal["native", "lab", "both"]
    name: str
    level: Level
    seen: str
    advice: str = ""


Result = tuple[Level, str, str]  # of a check: level, seen, advice


def check_native() -> list[Diagnosis]:
    """All checks, in the order of the report."""
    checks: tuple[tuple[Literal["native", "both"], str, Callable[[], Result]], ...] = (
        ("native", "KVM", check_kvm),
        ("native", "network namespaces", check_namespaces),
        ("native", "tap devices", check_tun),
        ("native", "vhost-net", check_vhost),
        ("native", "kcmp", check_kcmp),
        ("native", "drop tracepoint", check_tracefs),
        ("both", "rights", check_rights),
        ("both", "memory", check_memory),
    )
    return [Diagnosis(area, name, *check()) for area, name, check in checks]


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
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def check_namespaces() -> Result:
    """Create a network namespace, which takes CAP_SYS_ADMIN."""
    if _in_child(unshare_network):
        return Level.PASS, "can be created", ""
    seen = "need root here"
    if _in_child(lambda: unshare_network(user=True)):
        seen += ", or a user namespace, which may have no access to /dev/vhost-net"
    return Level.FAIL, seen, "run as root, or use the lab, which needs no rights"


def check_tun() -> Result:
    """Create a tap in a separate namespace."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        advice = "load the module tun" if error.errno != errno.EACCES else "get access to /dev/net/tun"
        return Level.FAIL, f"/dev/net/tun: {error.strerror}", advice

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
        return Level.FAIL, f"/dev/vhost-net: {error.strerror}", "load the module vhost_net"
    try:
        fcntl.ioctl(descriptor, VHOST_SET_OWNER)
    except OSError as error:
        return Level.FAIL, f"VHOST_SET_OWNER fails: {error.strerror}", ""
    finally:
        os.close(descriptor)
    return Level.PASS, "accepts an owner", ""


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
    advice = "needs CONFIG_KCMP and the right to ptrace (kernel.yama.ptrace_scope, container policy)"
    return Level.FAIL, "cannot compare descriptors of two processes", advice


def check_tracefs() -> Result:
    """Find the tracepoint that reports the reason of each dropped packet."""
    for root in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        with contextlib.suppress(OSError):
            if "kfree_skb" in os.listdir(f"{root}/events/skb"):
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


def check_memory() -> Result:
    """Check memory for source, target and, in a lab, its kernel."""
    available = psutil.virtual_memory().available >> 20
    seen = f"{available} MiB available"
    if available >= ENOUGH_MEMORY_MIB:
        return Level.PASS, seen, ""
    return Level.WARN, seen, f"{ENOUGH_MEMORY_MIB} MiB for each parallel test are recommended"


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
