"""What QEMU says of its devices: whether vhost works for a NIC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cprlib.errors import InstrumentError
from cprlib.qemu.machine import Machine


def vhost_started(machine: Machine, name: str = "virtio-net") -> bool:
    """Whether vhost carries the packets of the first virtio device of that name (QAPI VirtioStatus).

    :raises InstrumentError: there is no such device, or this QEMU does not tell.
    """
    tried = f"ask the {machine.name} whether vhost carries its packets"
    devices: list[Mapping[str, Any]] = machine.qmp.execute("x-query-virtio")
    path = next((str(item["path"]) for item in devices if item["name"] == name), None)
    if path is None:
        raise InstrumentError(tried, f"x-query-virtio knows no {name}")
    status: Mapping[str, Any] = machine.qmp.execute("x-query-virtio-status", {"path": path})
    if "vhost-started" not in status:
        raise InstrumentError(tried, "x-query-virtio-status has no member 'vhost-started'")
    return bool(status["vhost-started"])
