"""Settings of a QEMU for tests that start none."""

from __future__ import annotations

from pathlib import Path

from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.netdev import TapNetdev, VirtioNet


def machine_settings(queues: int = 4, **changes: object) -> MachineSettings:
    """Settings with one NIC with vhost and ``cpr=on``."""
    values: dict[str, object] = {
        "qemu": QemuBinary(Path("/q"), Path("/share")),
        "kernel": Path("/k"),
        "initramfs": Path("/i"),
        "kernel_arguments": "console=ttyS0",
        "netdevs": (TapNetdev(queues=queues, vhost=True, cpr=True),),
        "nics": (VirtioNet("52:54:00:00:00:01", queues=queues),),
    }
    return MachineSettings(**(values | changes))  # type: ignore[arg-type]
