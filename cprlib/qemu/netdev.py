"""The guest's NIC as QEMU sees it: a tap netdev and a virtio-net device."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cprlib.errors import UsageError

INTERFACE_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]{0,14}$")  # IFNAMSIZ - 1, and nothing a path could use
IDENTIFIER = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]*$")  # id_wellformed(), QEMU util/id.c


@dataclass(frozen=True, slots=True)
class TapNetdev:
    """``-netdev tap`` by interface name (QAPI NetdevTapOptions).

    :param interface: name of a persistent tap in QEMU's network namespace.
    :param queues: queue pairs; more than 1 needs a multi-queue tap.
    :param vhost: whether the kernel's vhost-net carries the packets.
    :param cpr: whether the descriptors shall cross a live update; None leaves the member out.
    """

    identifier: str = "net0"
    interface: str = "tap0"
    queues: int = 1
    vhost: bool = False
    cpr: bool | None = None

    def __post_init__(self) -> None:
        if not INTERFACE_NAME.match(self.interface):
            raise UsageError(f"name a tap {self.interface!r}", "not a valid interface name")
        if not IDENTIFIER.match(self.identifier):
            raise UsageError(f"name a netdev {self.identifier!r}", "not a valid QEMU identifier")
        if not 1 <= self.queues <= 256:  # MAX_TAP_QUEUES, drivers/net/tun.c
            raise UsageError(f"give a tap {self.queues} queues", "a tap has 1 to 256")

    def options(self) -> dict[str, object]:
        """Arguments for ``-netdev`` in JSON, and for QMP's netdev_add."""
        options: dict[str, object] = {
            "type": "tap",
            "id": self.identifier,
            "ifname": self.interface,
            "script": "no",
            "downscript": "no",
            "vhost": self.vhost,
        }
        if self.queues > 1:
            options["queues"] = self.queues
        if self.cpr is not None:
            options["cpr"] = self.cpr
        return options


@dataclass(frozen=True, slots=True)
class VirtioNet:
    """``-device virtio-net-pci`` on a netdev."""

    mac: str
    identifier: str = "nic0"
    netdev: str = "net0"
    queues: int = 1

    def options(self) -> dict[str, object]:
        """Arguments for ``-device`` in JSON, and for QMP's device_add.

        Two vectors per queue pair, one for configuration and one for the control queue.
        """
        options: dict[str, object] = {
            "driver": "virtio-net-pci",
            "id": self.identifier,
            "netdev": self.netdev,
            "mac": self.mac,
            "romfile": "",
        }
        if self.queues > 1:
            options |= {"mq": True, "vectors": 2 * self.queues + 2}
        return options
