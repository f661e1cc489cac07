"""Checks of the doctor for running natively: KVM, tun, vhost-net, rights."""

from __future__ import annotations

import contextlib
import enum
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


def check_native() -> list[Diagnosis]:
    """All checks, in the order of the report."""
    return [
        check_kvm(),
        check_namespaces(),
        check_tun(),
        check_vhost(),
        check_kcmp(),
        check_tracefs(),
        check_rights(),
        check_memory(),
    ]


def check_kvm() -> Diagnosis:
    """Run a few instructions in KVM."""
    name = "KVM"
    if not Path("/dev/kvm").exists():
        return Diagnosis(
            "native", name, Level.FAIL, "/dev/kvm does not exist", "enable virtualisation, load kvm_intel or kvm_amd"
        )
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Diagnosis("native", name, Level.FAIL, "no access to /dev/kvm", "join the group kvm")
    program = Path(__file__).with_name("kvm_probe.py")
    try:
        output = run([sys.executable, "-I", "-S", str(program)], purpose="run a program in KVM", seconds=5).strip()
    except CprlibError as error:
        output = error.happened
    if output != "ok":
        return Diagnosis("native", name, Level.FAIL, f"/dev/kvm does not run a program: {output}", "tests run in a lab")
    if platform.machine() == "x86_64" and not _cpu_flags() & {"vmx", "svm"}:
        return Diagnosis(
            "native",
            name,
            Level.FAIL,
            "paravirtual: the processor has neither VMX nor SVM, and ordinary kernels die in such a KVM",
            "use a host with (nested) hardware virtualisation, or the lab",
        )
    return Diagnosis("native", name, Level.PASS, "runs a program")


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def check_namespaces() -> Diagnosis:
    """Create a network namespace, which takes CAP_SYS_ADMIN."""
    name = "network namespaces"
    if _in_child(unshare_network):
        return Diagnosis("native", name, Level.PASS, "can be created")
    if _in_child(lambda: unshare_network(user=True)):
        seen = "need root here, or a user namespace, which may have no access to /dev/vhost-net"
    else:
        seen = "need root here"
    return Diagnosis("native", name, Level.FAIL, seen, "run as root, or use the lab, which needs no rights")


def check_tun() -> Diagnosis:
    """Create a tap in a separate namespace."""
    name = "tap devices"
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        advice = "load the module tun" if error.errno != 13 else "get access to /dev/net/tun"
        return Diagnosis("native", name, Level.FAIL, f"/dev/net/tun: {error.strerror}", advice)

    def make() -> None:
        unshare_network()
        open_tap("cprlib-probe")  # reopened: a tap belongs to the namespace of its opener

    os.close(descriptor)
    if _in_child(make):
        return Diagnosis("native", name, Level.PASS, "can be created")
    return Diagnosis("native", name, Level.FAIL, "/dev/net/tun opens, but no tap can be created", "get CAP_NET_ADMIN")


def check_vhost() -> Diagnosis:
    """Become the owner of a vhost-net device."""
    name = "vhost-net"
    try:
        descriptor = os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Diagnosis("native", name, Level.FAIL, f"/dev/vhost-net: {error.strerror}", "load the module vhost_net")
    try:
        fcntl.ioctl(descriptor, VHOST_SET_OWNER)
    except OSError as error:
        return Diagnosis("native", name, Level.FAIL, f"VHOST_SET_OWNER fails: {error.strerror}")
    finally:
        os.close(descriptor)
    return Diagnosis("native", name, Level.PASS, "accepts an owner")


def check_kcmp() -> Diagnosis:
    """Compare descriptors of two processes by kcmp(2), the proof that they are one open file."""
    name = "kcmp"
    if platform.machine() not in KCMP_NUMBERS:
        return Diagnosis("native", name, Level.WARN, f"its number is not known for {platform.machine()}")

    def compare() -> None:
        if not same_open_file(os.getpid(), fd, parent, fd):
            raise InstrumentError("compare a descriptor with itself", "kcmp reports another file")

    with open("/dev/null", "rb") as same:
        fd, parent = same.fileno(), os.getpid()
        equal = _in_child(compare)
    if equal:
        return Diagnosis("native", name, Level.PASS, "compares descriptors of two processes")
    advice = "needs CONFIG_KCMP and the right to ptrace (kernel.yama.ptrace_scope, container policy)"
    return Diagnosis("native", name, Level.FAIL, "cannot compare descriptors of two processes", advice)


def check_tracefs() -> Diagnosis:
    """Find the tracepoint that reports the reason of each dropped packet."""
    name = "drop tracepoint"
    for root in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        with contextlib.suppress(OSError):
            if "kfree_skb" in os.listdir(f"{root}/events/skb"):
                return Diagnosis("native", name, Level.PASS, f"skb:kfree_skb in {root}")
    seen = "no skb:kfree_skb: losses inside the kernel are reported without a reason"
    return Diagnosis("native", name, Level.WARN, seen, "mount -t tracefs tracefs /sys/kernel/tracing, as root")


def check_rights() -> Diagnosis:
    """Report what a user without root rights cannot test here."""
    name = "rights"
    if os.geteuid() == 0:
        return Diagnosis("both", name, Level.PASS, "root")
    seen = (
        f"user {os.geteuid()}: a lab tests QEMU with its own kernel's tun and vhost-net; not this host's kernel, KVM, "
        "bridges and drivers, nor its speed, and packages cannot be installed"
    )
    return Diagnosis("both", name, Level.WARN, seen, "see docs/safety.md, section Without root")


def check_memory() -> Diagnosis:
    """Check memory for source, target and, in a lab, its kernel."""
    name = "memory"
    available = psutil.virtual_memory().available >> 20
    seen = f"{available} MiB available"
    if available >= ENOUGH_MEMORY_MIB:
        return Diagnosis("both", name, Level.PASS, seen)
    return Diagnosis("both", name, Level.WARN, seen, f"{ENOUGH_MEMORY_MIB} MiB for each parallel test are recommended")


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
