"""Programs and Debian packages that a build needs: find missing ones, and install packages where the caller is root.

Hosts without apt (Fedora, openSUSE, Arch) need programs; they are named with the command that installs them.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cprlib.build import expected
from cprlib.build.command import build_environment
from cprlib.build.progress import Progress
from cprlib.errors import BuildFailed, DownloadFailed, EnvironmentFailure, MissingPackages, ProcessFailed
from cprlib.process import run, run_unkilled

LISTS = Path("/var/lib/apt/lists")
APT_GET = ("apt-get", "-o", "DPkg::Lock::Timeout=300")  # seconds: a new machine runs unattended upgrades at first
COMPILE_SECONDS = 120.0
# A package, and a program or file that shows that it is installed.
REQUIRED = {
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
    "gpgv": "gpgv",
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdio.h",
    "dpkg-dev": "dpkg-source",
    "xz-utils": "xz",
    # QEMU and its series
    "patch": "patch",
    "ninja-build": "ninja",
    "pkg-config": "pkg-config",
    "libglib2.0-dev": "/usr/include/glib-2.0/glib.h",
    "zlib1g-dev": "/usr/include/zlib.h",
    "libfdt-dev": "/usr/include/libfdt.h",
    "libseccomp-dev": "/usr/include/seccomp.h",
    "make": "make",
    # the lab's kernel
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
}
ARCHITECTURE_ADVICE = "use a machine with x86-64, for which QEMU, guest and lab kernel are made"
FOR_ENVIRONMENT = ("ca-certificates",)  # of these; and python3-venv

STATIC_LIBC = "libc.a"
NATIVE_RUN = ("gcc", "make", STATIC_LIBC, "gpgv")  # with a QEMU of the user's: for the guest's agent, and signatures
LAB_KERNEL = ("gcc", "make", "flex", "bison", "bc", "xz", "tar", "gpgv")
QEMU_BUILD = ("gcc", "make", "ninja", "pkg-config", "patch", "dpkg-source", "gpgv")
OTHER_NAMES: Mapping[str, Sequence[str]] = {"gpgv": ("gpgv", "gpgv2")}
MANAGERS: Mapping[str, tuple[str, Mapping[str, str]]] = {  # command, and packages whose names differ from the program's
    "dnf": (
        "dnf install",
        {"ninja": "ninja-build", "gpgv": "gnupg2", STATIC_LIBC: "glibc-static", "dpkg-source": "dpkg-dev"},
    ),
    "zypper": ("zypper install", {"gpgv": "gpg2", STATIC_LIBC: "glibc-devel-static", "dpkg-source": "dpkg"}),
    "pacman": (
        "pacman -S",
        {"gpgv": "gnupg", STATIC_LIBC: "glibc", "dpkg-source": "dpkg", "pkg-config": "pkgconf"},
    ),
}


def apt_messages(error: ProcessFailed) -> str:
    """The error and warning lines of apt, without prefixes, each once."""
    lines = [line[2:].strip() for line in error.details.splitlines() if line.startswith(("E:", "W:"))]
    return "; ".join(dict.fromkeys(lines[:3])) or error.happened


def other_architecture() -> str:
    """The architecture of this machine when the suite cannot run on it, else empty."""
    return machine if (machine := platform.machine()) != "x86_64" else ""


def has_apt() -> bool:
    """Whether this host has apt; else files are fetched by HTTPS, and packages installed by the user."""
    return shutil.which("apt-get") is not None


def missing_programs(programs: Sequence[str]) -> tuple[str, ...]:
    """Those that are not installed."""
    return tuple(name for name in programs if not _is_installed(name))


def require_programs(tried: str, programs: Sequence[str]) -> None:
    """Check programs before work that needs them, on a host without apt; with apt the bootstrap installs packages.

    :param tried: as it reads after "cannot": ``"build the lab's kernel"``.
    :raises MissingPackages: names what is missing, and the command to paste.
    """
    if not has_apt() and (missing := missing_programs(programs)):
        raise MissingPackages(tried, f"this host lacks {', '.join(missing)}", install_advice(missing))


def install_advice(missing: Sequence[str]) -> str:
    """The command that installs programs with the package manager of this host, on one line."""
    for manager, (command, names) in MANAGERS.items():
        if shutil.which(manager):
            return f"run: sudo {command} {' '.join(dict.fromkeys(names.get(name, name) for name in missing))}"
    return "install them with the package manager of this host"


def compile_static(command: Sequence[str], purpose: str) -> None:
    """Run gcc, or a make that calls it, for a small static program.

    :param purpose: as it reads after "cannot": ``"compile the guest's agent"``.
    :raises BuildFailed: holds the compiler's messages; says what to install when a program or library is missing.
    """
    try:
        run(command, purpose=purpose, seconds=COMPILE_SECONDS, env=build_environment())
    except (ProcessFailed, EnvironmentFailure) as error:
        advice = "install gcc, make and libc6-dev" if missing_programs(("gcc", "make", STATIC_LIBC)) else ""
        raise BuildFailed(error.tried, error.happened, advice, details=error.details) from error


def find_program(name: str) -> str | None:
    """The path of a program, which may have another name here; None where it is not installed."""
    return next((path for other in OTHER_NAMES.get(name, (name,)) if (path := shutil.which(other))), None)


def _is_installed(name: str) -> bool:
    if name != STATIC_LIBC:
        return find_program(name) is not None
    try:
        found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return Path(found.stdout.strip()).is_absolute()  # gcc prints the name alone for a file that it does not find


def missing_packages(compilers: bool = True) -> tuple[str, ...]:
    """Names of required packages that are missing.

    :param compilers: whether builds are needed beside the Python environment.
    """
    missing = []
    for name, probe in REQUIRED.items():
        if not compilers and name not in FOR_ENVIRONMENT:
            continue
        found = Path(probe).exists() if probe.startswith("/") else shutil.which(probe)
        if not found:
            missing.append(name)
    if not _has_ensurepip():
        missing.append("python3-venv")
    return tuple(missing)


def packages_to_install(compilers: bool = True) -> tuple[str, ...]:
    """Names of required packages that are missing, and that the caller may install.

    On a host without apt there are none; what a native run with the user's own QEMU needs is checked, and builds check
    the rest.

    :param compilers: whether builds are needed beside the Python environment.
    :raises MissingPackages: the caller is not root, or there is no apt; holds the command to paste, on one line.
    :raises EnvironmentFailure: this machine cannot run what is built.
    """
    if compilers and (machine := other_architecture()):
        raise EnvironmentFailure("build here", f"this machine is {machine}", ARCHITECTURE_ADVICE)
    if not has_apt():
        if compilers:
            require_programs("run here", NATIVE_RUN)
        return ()
    missing = missing_packages(compilers)
    if missing and os.geteuid() != 0:
        before = "" if _has_lists() else "sudo apt-get update && "
        line = f"{before}sudo apt-get install --no-install-recommends {' '.join(missing)}"
        tried = "build here" if compilers else "make the Python environment"
        raise MissingPackages(tried, f"{len(missing)} Debian packages are missing", f"run: {line}")
    return missing


def install_packages(missing: Sequence[str], progress: Progress) -> None:
    """Install packages by apt-get, as root.

    Nothing kills apt-get, and it has no deadline: this system's dpkg would be left half-way. It ends by itself, since
    it waits for the network and for locks with deadlines of its own.

    :param missing: from :func:`packages_to_install`, at least one.
    :raises MissingPackages: apt-get succeeded, and some are still missing.
    :raises DownloadFailed: apt-get failed; holds its messages.
    """
    install = [*APT_GET, "install", "--yes", "--no-install-recommends"]
    update = [*APT_GET, "update"]
    if not _has_lists():
        _apt_get(update, "fetch Debian's package lists", progress)
    command = [*install, *missing]
    detail = f"({len(missing)}: {' '.join(missing)})"
    try:
        _apt_get(command, "install Debian packages", progress, detail)
    except DownloadFailed:  # no lists, or outdated ones; fetch them, with every failure as an error
        _apt_get([*update, "-o", "APT::Update::Error-Mode=any"], "fetch Debian's package lists", progress)
        _apt_get(command, "install Debian packages", progress, detail)
    still = [name for name in missing_packages() if name in missing]
    if still:
        raise MissingPackages("build here", f"apt-get succeeded, but {', '.join(still)} is still missing")


def _apt_get(command: Sequence[str], purpose: str, progress: Progress, detail: str = "") -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    with progress.step(f"{purpose} {detail}".rstrip(), expected.PACKAGES if detail else 0.0):
        try:
            run_unkilled(command, purpose=purpose, env=environment)
        except ProcessFailed as error:
            advice = "check the network and apt's sources"
            raise DownloadFailed(purpose, apt_messages(error), advice, details=error.details) from error


def _has_lists() -> bool:
    return any(LISTS.glob("*_Packages*"))


def _has_ensurepip() -> bool:
    """Whether venv has pip, which Debian ships separately; a new interpreter sees a fresh installation."""
    probe = subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True, check=False)
    return probe.returncode == 0
