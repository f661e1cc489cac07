"""``cprlib doctor``: check what this host supports, and choose native or lab from that."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from cprlib.errors import CprlibError
from cprlib.files import cache_folder
from cprlib.lab.checks_native import Diagnosis, Level, check_native
from cprlib.lab.engine import DEFAULT_MEMORY_MIB, LabCommand, LabStreams
from cprlib.lab.engines import build_init, find_kernel
from cprlib.lab.uml import LAYERS, UmlEngine, places_for_memory
from cprlib.process import spawn

Mode = Literal["native", "lab"]
CACHE_NEEDED_MIB = 6144
LIST_DEVICES = "test -c /dev/net/tun && echo tun; test -c /dev/vhost-net && echo vhost-net"


def examine() -> list[Diagnosis]:
    """Run all checks; takes a few seconds at most."""
    return [*check_native(), *check_lab()]


def failures(findings: Iterable[Diagnosis], mode: Mode) -> list[Diagnosis]:
    """The failed checks of a mode."""
    return [one for one in findings if one.area in (mode, "both") and one.level is Level.FAIL]


def choose(findings: Sequence[Diagnosis]) -> Mode:
    """Native unless one of its checks fails, else the lab."""
    return "lab" if failures(findings, "native") else "native"


def usable(findings: Sequence[Diagnosis]) -> bool:
    """Whether the chosen mode can be used at all."""
    return not failures(findings, choose(findings))


def explain(findings: Sequence[Diagnosis]) -> str:
    """One line with the mode and the reason."""
    mode = choose(findings)
    if mode == "native":
        return "Tests run natively: this host supports all of them."
    missing = ", ".join(one.name for one in failures(findings, "native"))
    text = f"Tests run in a lab: natively, this host fails in {missing}."
    blocked = failures(findings, "lab")
    if blocked:
        text += f" A lab cannot be used either: {', '.join(one.name for one in blocked)}."
    return text


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


def check_lab() -> list[Diagnosis]:
    """All checks, in the order of the report."""
    return [*check_confinement(), check_disk(), check_boot()]


def prepare_only() -> dict[str, Any]:
    """The report of the launcher when it starts ``true`` instead of a kernel."""
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
    """Check the layers between a lab and files of the host, and the folder for its memory."""
    report = prepare_only()
    if "error" in report:
        advice = f"give {DEFAULT_MEMORY_MIB + 64} MiB to /dev/shm, or set TMPDIR to a tmpfs with that room"
        return [Diagnosis("lab", "memory of a lab", Level.FAIL, str(report["error"]), advice)]
    if report["leftover"]:
        os.rmdir(report["leftover"])
        seen = f"in {report['memory']}, which is no tmpfs: slower, and written to disk"
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
        seen = "neither Landlock nor namespaces: a faulty test could write all that you can write"
        advice = "use Linux 5.13 or newer with landlock in its list of LSMs, or allow user namespaces"
        findings.append(Diagnosis("lab", name, Level.WARN, seen, advice))
    if report["namespaces"]:
        findings.append(Diagnosis("lab", "namespaces", Level.PASS, "a lab has its own processes and no network"))
    else:
        seen = "not allowed: processes of a lab are visible among yours"
        findings.append(Diagnosis("lab", "namespaces", Level.WARN, seen, "allow user namespaces"))
    return findings


def check_disk() -> Diagnosis:
    """Check disk space for builds and downloads."""
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
    """Boot a lab; a kernel that is not built is a warning."""
    name = "lab"
    try:
        kernel = find_kernel()
    except CprlibError as error:
        return Diagnosis("lab", name, Level.WARN, f"its kernel: {error.happened}", "cprlib build lab")
    output = bytearray()
    command = LabCommand(("/bin/sh", "-c", LIST_DEVICES), Path("/"), {"PATH": os.defpath}, seconds=10)
    try:
        boot_ms = UmlEngine(kernel, build_init()).attempt(command, LabStreams(output.extend, output.extend)).boot_ms
    except CprlibError as error:
        return Diagnosis("lab", name, Level.FAIL, error.happened, error.advice)
    missing = {"tun", "vhost-net"} - set(output.decode(errors="replace").split())
    if missing:
        return Diagnosis("lab", name, Level.FAIL, f"has no {' and no '.join(sorted(missing))}", "cprlib build lab")
    return Diagnosis("lab", name, Level.PASS, f"boots in {boot_ms:.0f} ms, has tun and vhost-net")
