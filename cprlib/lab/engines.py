"""Lab engines by name, and the files that they need."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cprlib.build import store
from cprlib.build.progress import console_progress
from cprlib.deadline import SCALE_VARIABLE
from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.lab.engine import ENGINES
from cprlib.lab.session import compile_init, init_source
from cprlib.lab.uml import UmlEngine
from cprlib.qemu.binary import QemuBinary

if TYPE_CHECKING:
    from cprlib.build.assets import Assets
    from cprlib.lab.kvm import KvmEngine

# With nested KVM a guest carries fewer packets/s, and its updates take longer.
KVM_LAB_PARAMETERS = {"rate": "200", "control_run": "8"}
KVM_LAB_SCALE = "3"  # of deadlines, and of the delays that a check allows


def build_init() -> Path:
    """The first process of a user-mode Linux lab, compiled from images/lab/init.c.

    :raises BuildFailed: the compiler failed.
    """
    return store.entry("lab-init", store.key_of(source=init_source()), compile_init) / "init"


def find_kernel() -> Path:
    """The lab kernel: $CPRLIB_LAB_KERNEL, else the one of ``cprlib build lab``.

    :raises EnvironmentFailure: it is not built.
    :raises UsageError: $CPRLIB_LAB_KERNEL names no file.
    """
    if chosen := store.chosen_lab_kernel():
        return chosen
    from cprlib.build.assets import find_lab_kernel  # noqa: PLC0415 - slow import, not needed with $CPRLIB_LAB_KERNEL

    return find_lab_kernel()


def _kvm() -> KvmEngine:
    from cprlib.build.assets import build_assets, find_assets, manifest_file  # noqa: PLC0415 - slow import
    from cprlib.lab.kvm import build_kvm_engine  # noqa: PLC0415

    try:
        assets = find_assets()
    except EnvironmentFailure:  # this QEMU emulates the lab, and a run of the user's own QEMU does not build it
        assets = build_assets(console_progress(), lab=False)
    built = [assets.qemu.path, assets.guest.kernel, assets.guest.initramfs, manifest_file()]
    if assets.qemu.firmware:
        built.append(assets.qemu.firmware)
    return build_kvm_engine(assets.qemu.command(), built)


def make_engine(name: str, kernel: Path | None = None) -> UmlEngine | KvmEngine:
    """Create an engine, and build its files where they are missing.

    :param kernel: user-mode Linux; :func:`find_kernel` when None.
    :raises UsageError: the name is unknown.
    """
    if name == "uml":
        return UmlEngine(kernel or find_kernel(), build_init())
    if name == "kvm":
        return _kvm()
    raise UsageError(f"make a lab with engine {name!r}", "no such engine", f"choose one of {', '.join(ENGINES)}")


def engine_files(engine: UmlEngine | KvmEngine) -> dict[str, Any]:
    """The files of an engine as JSON, from which another process makes it again by :func:`engine_of_files`."""
    if isinstance(engine, UmlEngine):
        return {"kernel": str(engine.kernel), "init": str(engine.init)}
    return {"qemu": engine.qemu, "image": str(engine.image), "disks": [str(disk) for disk in engine.disks]}


def engine_of_files(files: Mapping[str, Any]) -> UmlEngine | KvmEngine:
    """Create an engine from its files; nothing is searched or built.

    :param files: from :func:`engine_files`.
    """
    if "kernel" in files:
        return UmlEngine(Path(files["kernel"]), Path(files["init"]))
    from cprlib.lab.kvm import KvmEngine  # noqa: PLC0415 - slow import, not needed by the other engine

    return KvmEngine(files["qemu"], Path(files["image"]), [Path(disk) for disk in files["disks"]])


def lab_environment(assets: Assets, engine: str | None) -> dict[str, str]:
    """Variables for Avocado: the lab kernel of these assets, and by how much deadlines are longer in this engine."""
    chosen = {store.KERNEL_VARIABLE: str(assets.lab_kernel)} if assets.lab_kernel else {}
    if engine == "kvm":
        chosen[SCALE_VARIABLE] = os.environ.get(SCALE_VARIABLE, KVM_LAB_SCALE)
    return chosen


def absolute_policy(policy: str) -> str:
    """A policy for another process, or for a later one: its name, or the path of its file from the root folder.

    What is a path is as in :func:`cprlib.verdict.policy_file.load_policy`.
    """
    return str(Path(policy).resolve()) if "/" in policy or policy.endswith(".toml") else policy


def lab_parameters(engine: str | None) -> Mapping[str, str]:
    """Parameters of the suite with the values that a lab's engine carries.

    :param engine: None natively.
    """
    return KVM_LAB_PARAMETERS if engine == "kvm" else {}


def asset_parameters(
    assets: Assets, engine: str | None, policy: str, *, qemu: QemuBinary | None = None
) -> dict[str, str]:
    """Avocado parameters for tests that use these assets.

    :param policy: name of a policy or path of its file.
    :param qemu: QEMU to test instead of that of the assets.
    """
    parameters = (qemu or assets.qemu).parameters() | {
        "kernel": str(assets.guest.kernel),
        "initramfs": str(assets.guest.initramfs),
        "policy": absolute_policy(policy),
    }
    if engine in (None, "kvm"):  # the host's KVM, or the nested one of this engine
        parameters["accelerator"] = "kvm"
    parameters |= lab_parameters(engine)
    return parameters
