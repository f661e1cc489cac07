"""Where the suite runs, natively or in a lab, and the parameters of its tests: their QEMU and guest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cprlib.build.assets import Assets
from cprlib.errors import EnvironmentFailure
from cprlib.lab.doctor import choose, examine, explain, failures
from cprlib.qemu.binary import QemuBinary

# With nested KVM a guest carries fewer packets/s, and its updates take longer.
KVM_LAB_PARAMETERS = {"rate": "200", "control_run": "8"}


def choose_engine(native: bool, lab: str | None, report: Callable[[str], None]) -> str | None:
    """The lab's engine, None for native.

    :param native: run on this host, whatever the doctor finds.
    :param lab: use this engine, whatever the doctor finds.
    :param report: called with the reason when neither is given and the doctor decides.
    :raises EnvironmentFailure: the suite can run neither on this host nor in a lab.
    """
    if lab:
        return lab
    if native:
        return None
    findings = examine()
    report(explain(findings))
    if choose(findings) == "native":
        return None
    if failed := failures(findings, "lab"):
        first = failed[0]
        raise EnvironmentFailure("run the suite", f"{first.name}: {first.seen}", first.advice or "see cprlib doctor")
    return "uml"


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
        "policy": str(Path(policy).resolve()) if Path(policy).suffix == ".toml" else policy,
    }
    if engine in (None, "kvm"):  # the host's KVM, or the nested one of this engine
        parameters["accelerator"] = "kvm"
    if engine == "kvm":
        parameters |= KVM_LAB_PARAMETERS
    return parameters
