"""Preparations of the first command on a machine: Debian packages, Python environment, builds; all at once.

Standard library only, because the Python environment is one of the things that are made.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprlib.build import expected, guest_image, lab_kernel, store
from cprlib.build.debian import Archive
from cprlib.build.expected import Expected
from cprlib.build.host_packages import find_program, install_packages, packages_to_install
from cprlib.build.lab_kernel import build_lab_kernel
from cprlib.build.progress import Progress, seconds_text
from cprlib.build.python_env import ensure_environment, has_environment
from cprlib.build.qemu import FIRMWARE_SUITE, build_qemu, find_firmware
from cprlib.build.series import DEFAULT_BASE, find_base
from cprlib.build.together import LOOK_AGAIN_S, run_together
from cprlib.errors import CprlibError
from cprlib.linux.cgroup import usable_cores
from cprlib.process import run

GUEST_SECONDS = 600.0
BUILDING = ("build", "prove", "run")  # commands that need builds
READING = ("doctor", "report")  # commands that build nothing


@dataclass(frozen=True, slots=True)
class Builds:
    """The builds that a command needs.

    :param base: base of the project's own QEMU; None when that is not needed.
    :param guest: whether the guest image is needed.
    :param lab: whether the lab kernel is needed.
    :param verdict: whether the command ends with the verdict of the whole suite.
    :param compilers: whether the command itself may build more.
    """

    base: str | None = None
    guest: bool = False
    lab: bool = False
    verdict: bool = False
    compilers: bool = True


def builds_of(arguments: Sequence[str], supports_native: Callable[[], bool]) -> Builds:
    """The builds that a command needs, as far as its arguments show; the command itself makes the rest.

    :param arguments: those of ``cprlib``, the name of the command first.
    :param supports_native: whether tests can run without a lab on this host.
    :raises UsageError: ``$CPRLIB_LAB_KERNEL`` names no file.
    """
    command, rest = arguments[0], list(arguments[1:])
    if command in READING:
        return Builds(compilers=False)
    if command not in BUILDING or {"-h", "--help"} & set(rest) or (command == "build" and rest):
        return Builds()
    other_qemu = any(word.partition("=")[0] in ("--qemu", "--matrix") for word in rest)
    lab = _value(rest, "--lab")
    in_lab = (
        "--native" not in rest and lab != "kvm" and (lab is not None or command == "build" or not supports_native())
    )
    base = None if other_qemu else _value(rest, "--base") or DEFAULT_BASE
    needs_kernel = in_lab and store.chosen_lab_kernel() is None
    return Builds(base=base, guest=True, lab=needs_kernel, verdict=command == "run" and not rest)


def build_everything(needed: Builds, progress: Progress) -> Path:
    """Make what is missing; returns the folder of the Python environment.

    :raises EnvironmentFailure: packages are missing, or a download or build failed.
    """
    has_python = has_environment()
    missing = packages_to_install(needed.compilers) if needed.compilers or not has_python else ()
    work = _expected_work(needed, packages=bool(missing), environment=not has_python)
    installed = threading.Event()
    tasks: dict[str, Callable[[Progress], Any]] = {}

    def install(shown: Progress) -> None:
        install_packages(missing, shown)
        installed.set()

    def download_meanwhile(shown: Progress) -> None:
        while not find_program("gpgv") and not installed.wait(LOOK_AGAIN_S):
            shown.raise_if_stopped()
        _download(needed, shown)

    def after_packages(build: Callable[[Progress], Any]) -> Callable[[Progress], Any]:
        def wait_and_build(shown: Progress) -> Any:
            while not installed.wait(LOOK_AGAIN_S):
                shown.raise_if_stopped()
            return build(shown)

        return wait_and_build

    if missing:
        tasks["Debian packages"] = install
        tasks["downloads"] = download_meanwhile
    else:
        installed.set()

    def make_environment(shown: Progress) -> Path:
        folder = ensure_environment(shown, is_complete=has_python)
        if needed.guest and _has_none("guest"):  # needs packages of the environment
            with shown.step("build the guest image", expected.GUEST_IMAGE):
                command = [str(folder / "bin" / "cprlib"), "build", "guest"]
                run(command, purpose="build the guest image", seconds=GUEST_SECONDS)
        return folder

    tasks["Python environment"] = after_packages(make_environment)
    if needed.base is not None:
        base = needed.base
        tasks["QEMU"] = after_packages(lambda shown: build_qemu(base, True, shown))
    if needed.lab:
        tasks["lab kernel"] = after_packages(build_lab_kernel)
    if work.work > 0:
        progress.note(_announcement(tasks, needed, work))
        progress.expect(work)
    results = run_together(progress, tasks, unkilled={"Debian packages": "apt-get"})
    if work.work > 0:
        progress.expect(None)
        progress.note(f"everything is built after {seconds_text(work.elapsed)}")
    environment: Path = results["Python environment"]
    return environment


def _download(needed: Builds, progress: Progress) -> None:
    """Download what the builds need while apt installs packages; an error of it is reported by the build."""
    with contextlib.suppress(CprlibError):
        if needed.lab:
            lab_kernel.download_source(progress)
        if needed.base is not None:
            base = find_base(needed.base)
            Archive(base.suite, progress).download_source("qemu", base.version)
            find_firmware(Archive(FIRMWARE_SUITE, progress), progress)
        if needed.guest:
            guest_image.download_packages(progress)


def _expected_work(needed: Builds, *, packages: bool, environment: bool) -> Expected:
    """Processor seconds of what is missing; of a kind of builds, that is known only when the store has none.

    :param packages: whether Debian packages are missing; :param environment: whether the Python environment is.
    """
    parts = (
        (expected.PACKAGES, packages),
        (expected.ENVIRONMENT, environment),
        (expected.QEMU, needed.base is not None and _has_none("qemu")),
        (expected.GUEST_IMAGE, needed.guest and _has_none("guest")),
        (expected.KERNEL, needed.lab and _has_none("lab-kernel")),
    )
    seconds = sum(work for work, needs in parts if needs)
    if needed.verdict:
        return Expected(seconds, usable_cores(), expected.FIRST_CASE, "to the first verdict")
    return Expected(seconds, usable_cores())


def _has_none(kind: str) -> bool:
    return not any((store.store_folder() / kind).glob("[!.]*"))


def _announcement(tasks: Mapping[str, object], needed: Builds, work: Expected) -> str:
    steps = ", ".join(name for name in tasks if name != "downloads")
    cores = f"{work.cores} cores" if work.cores > 1 else "1 core"
    ready = work.left() - work.then
    text = f"Steps: {steps}. On {cores} this takes about {seconds_text(ready)}"
    if needed.verdict:
        end = ready + expected.SUITE / work.cores
        text += f"; the first verdict is there after {seconds_text(work.left())}, the last after {seconds_text(end)}"
    return f"{text}."


def _value(words: Sequence[str], option: str) -> str | None:
    """The value of an option, given as ``--base=10.2`` or ``--base 10.2``."""
    for word, next_word in itertools.pairwise([*words, ""]):
        if word == option:
            return next_word
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None
