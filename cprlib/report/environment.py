"""The machine and the software versions of a run, so that runs of different machines are not compared unnoticed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

import cprlib
from cprlib import files
from cprlib.codec import Count
from cprlib.errors import CprlibError
from cprlib.linux.cgroup import usable_cores
from cprlib.process import run

COMMIT_FILE = "COMMIT"  # written by hatch_build.py
_KEY = re.compile("[0-9a-f]{40}")
PACKAGES = ("avocado-framework", "qemu.qmp", "pyroute2", "scapy", "matplotlib", "Jinja2")


@dataclass(frozen=True, slots=True)
class Environment:
    """Machine and software versions; what is unknown is empty or None.

    :param mode: ``native`` or ``lab``.
    :param engine: of the lab: ``uml`` or ``kvm``.
    :param lab_retries: cases that were restarted because their lab died.
    :param cores: that this process may use.
    :param memory_mib: of the host.
    :param commit: of this project, with ``-dirty`` for uncommitted changes.
    :param lab_kernel: content hash of the lab's user-mode Linux; empty natively and in engine ``kvm``.
    :param accelerator: of the guests: ``kvm`` or ``tcg``.
    """

    mode: Annotated[str, Meta(pattern="^(native|lab|)$")] = ""
    engine: Annotated[str, Meta(pattern="^(uml|kvm|)$")] = ""
    lab_retries: Count = 0
    kernel: str = ""
    architecture: str = ""
    distribution: str = ""
    cpu: str = ""
    cores: Count | None = None
    memory_mib: Count | None = None
    python: str = ""
    cprlib: str = ""
    commit: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    lab_kernel: str = ""
    accelerator: Annotated[str, Meta(pattern="^(kvm|tcg|)$")] = ""

    @property
    def machine(self) -> str:
        """What durations depend on: ``AMD EPYC, 8 cores, Linux 6.12``."""
        cores = f"{self.cores:,} cores" if self.cores else ""
        return ", ".join(filter(None, (self.cpu or "unknown CPU", cores, f"Linux {self.kernel}".rstrip())))


def describe_machine() -> Environment:
    """Describe this machine and the software on it."""
    return Environment(
        kernel=platform.release(),
        architecture=platform.machine(),
        distribution=_distribution(),
        cpu=_cpu_model(),
        cores=usable_cores(),
        memory_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        python=platform.python_version(),
        cprlib=cprlib.__version__,
        commit=project_commit(),
        packages=_packages(),
    )


def describe_run(engine: str | None, *, lab_kernel: Path | None = None, accelerator: str = "") -> Environment:
    """Describe this machine for a run.

    :param engine: of the lab; None for a native run.
    :param lab_kernel: path of the lab's user-mode Linux.
    :param accelerator: of the guests; the usual one of the engine when empty.
    """
    return replace(
        describe_machine(),
        mode="lab" if engine else "native",
        engine=engine or "",
        lab_kernel=_content_hash(lab_kernel) if lab_kernel else "",
        accelerator=accelerator or ("tcg" if engine == "uml" else "kvm"),
    )


def join_environments(machines: Sequence[Environment]) -> Environment:
    """Describe several machines as one.

    Equal values stay, numbers of labs that died are added, different texts are joined with ``|``.
    """

    def joined(name: str) -> Any:
        values = list(dict.fromkeys(getattr(machine, name) for machine in machines))
        if name == "lab_retries":
            return sum(machine.lab_retries for machine in machines)
        if len(values) == 1:
            return values[0]
        if name in ("mode", "engine", "accelerator"):  # run.json allows only fixed words
            return ""
        return " | ".join(map(str, values)) if isinstance(values[0], str) else None

    packages = dict(set.intersection(*(set(machine.packages.items()) for machine in machines)))
    common = {item.name: joined(item.name) for item in fields(Environment) if item.name != "packages"}
    return Environment(**common, packages=packages)


def _content_hash(lab_kernel: Path) -> str:
    """The name of the store's entry, a hash of what it is made from; of another kernel, a hash of its bytes."""
    if _KEY.fullmatch(lab_kernel.parent.name):
        return lab_kernel.parent.name
    with lab_kernel.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:40]


def _distribution() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return ""


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return ""


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def project_commit() -> str:
    """The commit of the checkout, or the one that the installed package was built from; empty when unknown."""
    checkout = files.project_folder()
    if not (checkout / ".git").exists():
        with contextlib.suppress(OSError):
            return (checkout / COMMIT_FILE).read_text(encoding="utf-8").strip()
        return ""
    with contextlib.suppress(CprlibError):
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return run(command, purpose="read the commit of the checkout", seconds=10).strip()
    return ""
