"""What the host needs to run a lab, found out by preparing one, and by booting one when the kernel is there."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from cprlib.errors import CprlibError
from cprlib.files import cache_folder
from cprlib.lab.doctor import Diagnosis, Level
from cprlib.lab.engine import DEFAULT_MEMORY_MIB, LabCommand, LabStreams
from cprlib.lab.engines import build_init, find_kernel
from cprlib.lab.uml import LAYERS, UmlEngine, places_for_memory
from cprlib.process import spawn

CACHE_NEEDED_MIB = 6144
LOOK = "test -c /dev/net/tun && echo tun; test -c /dev/vhost-net && echo vhost-net"


def all_checks() -> list[Diagnosis]:
    """All of them, in the order in which they are shown."""
    return [*check_confinement(), check_disk(), check_boot()]


def prepare_only() -> dict[str, Any]:
    """What the launcher reports when it prepares a lab but starts ``true`` in the place of the kernel."""
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8") as report:
        top = max(reader, writer)
        spec = {
            "argv": [shutil.which("true") or "/bin/true"],
            "folders": [tempfile.gettempdir()],  # nothing is written: `true` runs
            "folder_fds": [top + 2],
            "memory": DEFAULT_MEMORY_MIB,
            "memory_fd": top + 1,
            "places": places_for_memory(),
            "cpu": None,
            "report": writer,
            "keep": [],
            "layers": LAYERS,
        }
        launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("confine.py")), json.dumps(spec)]
        try:
            with spawn(launcher, purpose="prepare a lab", pass_fds=[writer]) as child:
                os.close(writer)
                writer = -1
                lines = [json.loads(line) for line in report.read().splitlines() if line.strip()]
                child.wait()
        finally:
            if writer >= 0:
                os.close(writer)
    return {key: value for line in lines for key, value in line.items()}


def check_confinement() -> list[Diagnosis]:
    """The layers between a lab and the host's files, and the place for its memory."""
    report = prepare_only()
    if "error" in report:
        advice = f"give {DEFAULT_MEMORY_MIB + 64} MiB to /dev/shm, or set TMPDIR to a tmpfs with that room"
        return [Diagnosis("lab", "memory of a lab", Level.FAIL, str(report["error"]), advice)]
    if report["leftover"]:
        os.rmdir(report["leftover"])
        seen = f"in {report['memory']}, which is no tmpfs: slower, and the disk is written"
        advice = f"give {DEFAULT_MEMORY_MIB + 64} MiB to /dev/shm, or set TMPDIR to a tmpfs with that room"
        findings = [Diagnosis("lab", "memory of a lab", Level.WARN, seen, advice)]
    else:
        findings = [Diagnosis("lab", "memory of a lab", Level.PASS, f"in {report['memory']}")]
    name = "host read-only"
    if report["readonly"] and report["landlock"]:
        seen = f"by a read-only clone of the mounts and Landlock {report['landlock']}"
        findings.append(Diagnosis("lab", name, Level.PASS, seen))
    elif report["readonly"]:
        seen = "by a read-only clone of the mounts; this kernel has no Landlock as a second layer"
        findings.append(Diagnosis("lab", name, Level.PASS, seen))
    elif report["landlock"]:
        seen = f"by Landlock {report['landlock']}; chmod and chown of host files do nothing"
        findings.append(Diagnosis("lab", name, Level.PASS, seen))
    else:
        seen = "neither Landlock nor namespaces: a test with a fault could write what you can write"
        advice = "use Linux 5.13 or newer with landlock in its list of LSMs, or allow user namespaces"
        findings.append(Diagnosis("lab", name, Level.WARN, seen, advice))
    if report["namespaces"]:
        findings.append(Diagnosis("lab", "namespaces", Level.PASS, "a lab has its own processes and no network"))
    else:
        seen = "not allowed: a lab's processes are among yours"
        findings.append(Diagnosis("lab", "namespaces", Level.WARN, seen, "allow user namespaces"))
    return findings


def check_disk() -> Diagnosis:
    """Room for what is built and downloaded."""
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free >> 20
    seen = f"{free} MiB free in {folder}"
    if free >= CACHE_NEEDED_MIB:
        return Diagnosis("both", "disk", Level.PASS, seen)
    advice = f"{CACHE_NEEDED_MIB} MiB are needed for the first build; CPRLIB_CACHE names another folder"
    return Diagnosis("both", "disk", Level.WARN, seen, advice)


def check_boot() -> Diagnosis:
    """A lab, booted; not yet built is no failure."""
    name = "lab"
    try:
        kernel = find_kernel()
    except CprlibError as error:
        return Diagnosis("lab", name, Level.WARN, f"its kernel: {error.happened}", "cprlib build lab")
    heard = bytearray()
    command = LabCommand(("/bin/sh", "-c", LOOK), Path("/"), {"PATH": os.defpath}, seconds=10)
    try:
        boot_ms = UmlEngine(kernel, build_init()).attempt(command, LabStreams(heard.extend, heard.extend)).boot_ms
    except CprlibError as error:
        return Diagnosis("lab", name, Level.FAIL, error.happened, error.advice)
    missing = {"tun", "vhost-net"} - set(heard.decode(errors="replace").split())
    if missing:
        return Diagnosis("lab", name, Level.FAIL, f"has no {' and no '.join(sorted(missing))}", "cprlib build lab")
    return Diagnosis("lab", name, Level.PASS, f"boots in {boot_ms:.0f} ms, has tun and vhost-net")
