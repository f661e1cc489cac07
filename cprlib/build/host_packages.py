"""Debian packages that a build needs: find the missing ones, and install them where the caller is root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cprlib.build import expected
from cprlib.build.apt import apt_messages
from cprlib.build.other_packages import NATIVE_RUN, has_apt, require_programs
from cprlib.build.progress import Progress
from cprlib.errors import DownloadFailed, MissingPackages, ProcessFailed
from cprlib.process import run

LISTS = Path("/var/lib/apt/lists")
INSTALL_SECONDS = 1800.0
# A package, and a program or file that shows that it is installed.
REQUIRED = {
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
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


def missing_packages() -> tuple[str, ...]:
    """Names of required packages that are missing."""
    missing = []
    for name, probe in REQUIRED.items():
        found = Path(probe).exists() if probe.startswith("/") else shutil.which(probe)
        if not found:
            missing.append(name)
    if not _has_ensurepip():
        missing.append("python3-venv")
    return tuple(missing)


def ensure_packages(progress: Progress, *, check_only: bool = False) -> None:
    """Install missing packages where the caller is root.

    On a host without apt only what a native run with the user's own QEMU needs is checked; builds check the rest.

    :param check_only: only raise the error when the caller is not root.
    :raises MissingPackages: the caller is not root, or there is no apt; holds the command to paste, on one line.
    :raises DownloadFailed: apt-get failed; holds its messages.
    """
    if not has_apt():
        require_programs("run here", NATIVE_RUN)
        return
    missing = missing_packages()
    if not missing:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends"]
    if os.geteuid() != 0:
        before = "" if _has_lists() else "sudo apt-get update && "
        line = f"{before}sudo apt-get install --no-install-recommends {' '.join(missing)}"
        raise MissingPackages("build here", f"{len(missing)} Debian packages are missing", f"run: {line}")
    if check_only:
        return
    update = ["apt-get", "update"]
    if not _has_lists():
        _apt_get(update, "fetch Debian's package lists", progress)
    command = [*install, *missing]
    detail = f"({len(missing)}: {' '.join(missing)})"
    try:
        _apt_get(command, "install Debian packages", progress, detail)
    except DownloadFailed:  # no lists, or outdated ones; fetch them, with every failure as an error
        _apt_get([*update, "-o", "APT::Update::Error-Mode=any"], "fetch Debian's package lists", progress)
        _apt_get(command, "install Debian packages", progress, detail)
    still = missing_packages()
    if still:
        raise MissingPackages("build here", f"apt-get succeeded, but {', '.join(still)} is still missing")


def _apt_get(command: Sequence[str], purpose: str, progress: Progress, detail: str = "") -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    with progress.step(f"{purpose} {detail}".rstrip(), expected.PACKAGES if detail else 0.0):
        try:
            run(command, purpose=purpose, seconds=INSTALL_SECONDS, env=environment)
        except ProcessFailed as error:
            advice = "check the network and apt's sources"
            raise DownloadFailed(purpose, apt_messages(error), advice, details=error.details) from error


def _has_lists() -> bool:
    return any(LISTS.glob("*_Packages*"))


def _has_ensurepip() -> bool:
    """Whether venv has pip, which Debian ships separately; a new interpreter sees a fresh installation."""
    probe = subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True, check=False)
    return probe.returncode == 0
