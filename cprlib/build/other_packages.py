"""Programs that hosts without apt need: Fedora, openSUSE, Arch. Named with the command that installs them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cprlib.errors import MissingPackages

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


def has_apt() -> bool:
    """Whether this host has apt; else packages are fetched by HTTPS, and installed by the user."""
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


def _is_installed(name: str) -> bool:
    if name != STATIC_LIBC:
        return any(shutil.which(other) for other in OTHER_NAMES.get(name, (name,)))
    try:
        found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return Path(found.stdout.strip()).is_absolute()  # gcc prints the name alone for a file that it does not find
