"""``cprlib doctor``: check what this host supports, and choose native or lab from that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from cprlib.build.host_packages import (
    ARCHITECTURE_ADVICE,
    LAB_KERNEL,
    NATIVE_RUN,
    QEMU_BUILD,
    has_apt,
    install_advice,
    missing_programs,
    other_architecture,
)
from cprlib.errors import CprlibError, EnvironmentFailure
from cprlib.files import cache_folder
from cprlib.lab.checks_native import Diagnosis, Level, Result, check_native, examine
from cprlib.lab.confine import TRUNCATE_VERSION
from cprlib.lab.engine import LabCommand, LabStreams
from cprlib.lab.engines import build_init, find_kernel
from cprlib.lab.schedule import lab_memory_mib
from cprlib.lab.uml import LAYERS, UmlEngine, confined, places_for_memory
from cprlib.linux.procfs import read_text
from cprlib.process import describe_status, spawn

Mode = Literal["native", "lab"]
CACHE_NEEDED_MIB = 6144
HOST_READ_ONLY = "host read-only"  # the check's name
REPORT_FD = 1  # of the launcher: its standard output
MOST_NAMESPACES = "user.max_user_namespaces"
NAMESPACE_SETTINGS = (  # sysctl, the value that forbids user namespaces, what it means
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "AppArmor gives no rights in user namespaces (Ubuntu 24.04)"),
    ("kernel.unprivileged_userns_clone", "0", "only root may make user namespaces"),
    (MOST_NAMESPACES, "0", "no user namespace may be made"),
)
LIST_DEVICES = "test -c /dev/net/tun && echo tun; test -c /dev/vhost-net && echo vhost-net"


def failures(findings: Iterable[Diagnosis], mode: Mode) -> list[Diagnosis]:
    return [one for one in findings if one.area in (mode, "both") and one.level is Level.FAIL]


def choose(findings: Sequence[Diagnosis]) -> Mode:
    """Native unless one of its checks fails, else the lab."""
    return "lab" if failures(findings, "native") else "native"


def usable(findings: Sequence[Diagnosis]) -> bool:
    return not failures(findings, choose(findings))


def choose_engine(native: bool, lab: str | None, report: Callable[[str], None]) -> str | None:
    """The lab's engine, None for native.

    :param native: run on this host, whatever the doctor finds.
    :param lab: use this engine, whatever the doctor finds.
    :param report: called with the reason when neither is given and the doctor decides, and with a warning when a lab
        could write files of the host.
    :raises EnvironmentFailure: the suite can run neither on this host nor in a lab.
    """
    if lab:
        warn_of_writing(check_confinement() if lab == "uml" else (), report)
        return lab
    if native:
        return None
    findings = check_host()
    if choose(findings) == "lab":
        findings += check_lab()
    report(explain(findings))
    if choose(findings) == "native":
        return None
    if failed := failures(findings, "lab"):
        first = failed[0]
        raise EnvironmentFailure("run the suite", f"{first.name}: {first.seen}", first.advice or "see cprlib doctor")
    warn_of_writing(findings, report)
    return "uml"


def warn_of_writing(findings: Iterable[Diagnosis], report: Callable[[str], None]) -> None:
    """Report a warning when a lab could write files of the host."""
    for one in findings:
        if one.name == HOST_READ_ONLY and one.level is Level.WARN:
            report(f"warning: labs are not kept from writing this host's files: {one.seen}; {one.advice}")


def explain(findings: Sequence[Diagnosis]) -> str:
    """One line with the mode and the reason."""
    mode = choose(findings)
    if mode == "native":
        return "Tests run natively: this host supports all of them."
    missing = ", ".join(one.name for one in failures(findings, "native"))
    if blocked := ", ".join(one.name for one in failures(findings, "lab")):
        return f"Tests cannot run here: natively, this host fails in {missing}; a lab fails in {blocked}."
    return f"Tests run in a lab: natively, this host fails in {missing}."


def render_text(findings: Sequence[Diagnosis], colour: bool = False) -> str:
    """The findings as lines, with advice for those that are not passed, and the mode at the end."""
    colours = {Level.PASS: "32", Level.WARN: "33", Level.FAIL: "31"}
    titles = {"native": "Running natively", "lab": "Running in a lab", "both": "Both"}
    width = max((len(one.name) for one in findings), default=0)
    lines: list[str] = []
    for area, title in titles.items():
        chosen = [one for one in findings if one.area == area]
        if chosen:
            lines.append(f"{title}:")
        for one in chosen:
            level = one.level.upper()
            label = f"\033[{colours[one.level]}m{level}\033[0m" if colour else level
            lines.append(f"  {one.name:<{width}} : {label} ({one.seen})")
            if one.advice and one.level is not Level.PASS:
                lines.append(f"  {'':<{width}}   {one.advice}")
    return "\n".join([*lines, "", explain(findings)]) + "\n"


def as_json(findings: Sequence[Diagnosis]) -> dict[str, Any]:
    """The findings as JSON: ``mode``, ``usable``, ``explanation``, ``findings``."""
    return {
        "mode": choose(findings),
        "usable": usable(findings),
        "explanation": explain(findings),
        "findings": [asdict(one) for one in findings],
    }


def check_host() -> list[Diagnosis]:
    """The checks for running natively, and those that concern a lab as well."""
    return [
        *check_architecture(),
        *check_native(),
        examine("both", "Debian's packages", check_packages),
        examine("both", "disk", check_disk),
    ]


def check_lab() -> list[Diagnosis]:
    """The checks for a lab alone; they start one."""
    return [*check_confinement(), examine("lab", "lab", check_boot)]


def prepare_only() -> dict[str, Any]:
    """The report of the launcher when it starts ``true`` instead of a kernel."""
    launcher = confined(
        argv=[shutil.which("true") or "/bin/true"],
        folders=["/"],  # nothing is written: `true` runs
        folder_fds=[REPORT_FD + 100],
        memory=lab_memory_mib(),
        memory_fd=REPORT_FD + 101,
        places=places_for_memory(),
        cpu=None,
        report=REPORT_FD,
        keep=[],
        layers=list(LAYERS),
    )
    with spawn(launcher, purpose="prepare a lab", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        output, errors = child.communicate()
    report = {key: value for line in output.splitlines() if line.strip() for key, value in json.loads(line).items()}
    if not report:
        last = errors.strip().splitlines()[-1] if errors.strip() else "no message"
        return {"error": f"the launcher of the lab ended with {describe_status(child.returncode)}: {last}"}
    return report


def check_confinement() -> list[Diagnosis]:
    """Check the layers between a lab and files of the host, and the folder for its memory."""
    try:
        report = prepare_only()
    except OSError as error:
        report = {"error": str(error)}
    advice = f"give {lab_memory_mib() + 64} MiB to /dev/shm, or set TMPDIR to a tmpfs with that room"
    if "error" in report:
        return [Diagnosis("lab", "memory of a lab", Level.FAIL, str(report["error"]), advice)]
    level, seen = Level.PASS, f"in {report['memory']}"
    if report["leftover"]:
        os.rmdir(report["leftover"])
        level, seen = Level.WARN, f"{seen}, which is no tmpfs: slower, and written to disk"
    found = [("memory of a lab", level, seen, advice if level is Level.WARN else "")]
    found.append((HOST_READ_ONLY, *host_protection(report)))
    if report["namespaces"]:
        found.append(("namespaces", Level.PASS, "a lab has its own processes and no network", ""))
    else:
        seen = f"refused ({report['namespaces_refused']}): processes of a lab are visible among yours"
        found.append(("namespaces", Level.WARN, seen, namespaces_advice()))
    return [Diagnosis("lab", *one) for one in found]


def host_protection(report: Mapping[str, Any]) -> Result:
    """What keeps a lab from writing files of the host.

    :param report: of the launcher.
    """
    version = report["landlock"]
    if report["readonly"]:
        second = f" and Landlock {version}" if version else "; this kernel has no Landlock as a second layer"
        return Level.PASS, f"by a read-only clone of the mounts{second}", ""
    if not version:
        seen = "neither Landlock nor namespaces: a faulty test could write all that you can write"
        return Level.WARN, seen, "use Linux 5.13 or newer with landlock in its list of LSMs, or allow user namespaces"
    if not report["metadata_ignored"]:
        seen = f"by Landlock {version}, which does not cover chmod and chown of the host's files"
        return Level.WARN, seen, "allow user namespaces"
    if version < TRUNCATE_VERSION:
        seen = f"by Landlock {version}, which does not cover truncation; truncate(2) is refused"
        return Level.WARN, seen, "use Linux 6.2 or newer, or allow user namespaces"
    return Level.PASS, f"by Landlock {version}; chmod and chown of host files do nothing", ""


def namespaces_advice(root: Path = Path("/")) -> str:
    """Who refuses user namespaces here, and how to allow them; labs run without them too.

    :param root: root of the file system; another one for tests.
    """
    for name, value, who in NAMESPACE_SETTINGS:
        if read_text(root / "proc/sys" / name.replace(".", "/")).strip() == value:
            other = {"0": "1", "1": "0"}[value] if name != MOST_NAMESPACES else "15000"
            return f"{who}; a lab runs without them too. To allow them: sudo sysctl {name}={other}"
    return "the policy of this container or kernel refuses user namespaces; a lab runs without them too"


def check_architecture() -> list[Diagnosis]:
    """A failure on a machine that is not x86-64."""
    machine = other_architecture()
    return [Diagnosis("both", "architecture", Level.FAIL, machine, ARCHITECTURE_ADVICE)] if machine else []


def check_disk() -> Diagnosis:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free >> 20
    seen = f"{free} MiB free in {folder}"
    if free >= CACHE_NEEDED_MIB:
        return Diagnosis("both", "disk", Level.PASS, seen)
    advice = f"{CACHE_NEEDED_MIB} MiB are needed for the first build; CPRLIB_CACHE names another folder"
    return Diagnosis("both", "disk", Level.WARN, seen, advice)


def check_packages() -> Diagnosis:
    """Say how Debian's packages are fetched, for the guest and for builds."""
    name = "Debian's packages"
    if has_apt():
        return Diagnosis("both", name, Level.PASS, "by apt")
    if missing := missing_programs(NATIVE_RUN):
        return Diagnosis("both", name, Level.FAIL, f"no apt, and no {', '.join(missing)}", install_advice(missing))
    seen = "by HTTPS, signatures checked by gpgv"
    if missing := missing_programs((*LAB_KERNEL, *QEMU_BUILD)):
        advice = (
            f"enough for --native with --qemu PATH; to build a QEMU and the lab's kernel, {install_advice(missing)}"
        )
        return Diagnosis("both", name, Level.WARN, f"{seen}; no {', '.join(dict.fromkeys(missing))}", advice)
    return Diagnosis("both", name, Level.PASS, seen)


def check_boot() -> Diagnosis:
    """Boot a lab; a kernel that is not built is a warning."""
    name = "lab"
    try:
        kernel = find_kernel()
    except CprlibError as error:
        return Diagnosis("lab", name, Level.WARN, f"its kernel: {error.happened}", "cprlib build lab")
    output = bytearray()
    argv = ("/bin/sh", "-c", LIST_DEVICES)
    command = LabCommand(argv, Path("/"), {"PATH": os.defpath}, seconds=10, memory=lab_memory_mib())
    try:
        boot_ms = UmlEngine(kernel, build_init()).attempt(command, LabStreams(output.extend, output.extend)).boot_ms
    except CprlibError as error:
        return Diagnosis("lab", name, Level.FAIL, error.happened, error.advice)
    missing = {"tun", "vhost-net"} - set(output.decode(errors="replace").split())
    if missing:
        return Diagnosis("lab", name, Level.FAIL, f"has no {' and no '.join(sorted(missing))}", "cprlib build lab")
    return Diagnosis("lab", name, Level.PASS, f"boots in {boot_ms:.0f} ms, has tun and vhost-net")
