"""QEMU's view of a virtio-net device: features, status and receive filters; differences between two views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cprlib.errors import QmpRefused
from cprlib.qemu.qmp import QmpConnection

Facts = Mapping[str, str]

LARGEST_RING = 1024  # VIRTQUEUE_MAX_SIZE, include/hw/virtio/virtio.h
NIC_PATH = "/machine/peripheral/{}/virtio-backend"


def device_facts(qmp: QmpConnection, nic: str = "nic0") -> Facts:
    """What QEMU tells of a virtio-net device that an update must not change (x-query-virtio-status).

    :param nic: id of the device.
    :raises QmpRefused, QemuFailed, DeadlineExceeded: see :meth:`QmpConnection.execute`.
    """
    return facts_from_status(qmp.execute("x-query-virtio-status", {"path": NIC_PATH.format(nic)}))


def facts_from_status(status: Mapping[str, Any]) -> Facts:
    """The lasting part of a VirtioStatus (QEMU qapi/virtio.json), features by the first word of their description."""
    facts = {name: _features(status[name]) for name in ("guest-features", "host-features", "backend-features")}
    facts |= {name: str(status[name]) for name in ("num-vqs", "vhost-started", "started", "broken", "device-endian")}
    facts["status"] = _words(status["status"]["statuses"])
    if "vhost-dev" in status:
        vhost = status["vhost-dev"]
        facts |= {f"vhost {name}": _features(vhost[name]) for name in ("features", "acked-features")}
    return facts


def _features(value: Mapping[str, Any]) -> str:
    unknown = [
        f"{name} {value[name]:#x}"
        for name in sorted(value)
        if name.startswith("unknown") and isinstance(value[name], int)
    ]
    return " ".join([_words([*value.get("transports", ()), *value.get("dev-features", ())]), *unknown]).strip()


def _words(descriptions: Iterable[str]) -> str:
    return " ".join(sorted(text.partition(":")[0] for text in descriptions))


def filter_facts(qmp: QmpConnection, nic: str = "nic0") -> Facts:
    """What the device receives: addresses, VLANs, modes (query-rx-filter), without regard to the order of tables.

    :raises QmpRefused, QemuFailed, DeadlineExceeded: see :meth:`QmpConnection.execute`.
    """
    return facts_from_filter(qmp.execute("query-rx-filter", {"name": nic})[0])


def facts_from_filter(information: Mapping[str, Any]) -> Facts:
    """A RxFilterInfo (QEMU qapi/net.json) as facts."""

    def text(value: object) -> str:
        if isinstance(value, list):
            return " ".join(str(item) for item in sorted(value))
        return str(value).lower()

    return {name: text(value) for name, value in information.items() if name != "name"}


def differences(before: Facts, after: Facts) -> tuple[str, ...]:
    """What differs between two views, one line each; empty when they are equal.

    Of long lists only what came and went is told.
    """
    return tuple(
        _difference(name, before.get(name), after.get(name))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    )


def _difference(name: str, before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return f"{name} was {before or 'absent'}, is {after or 'absent'}"
    gone = [word for word in before.split() if word not in after.split()]
    new = [word for word in after.split() if word not in before.split()]
    if len(before.split()) <= 3 or not (gone or new):
        return f"{name} was {before or 'empty'}, is {after or 'empty'}"
    told = [f"lost {' '.join(gone)}"] if gone else []
    told += [f"gained {' '.join(new)}"] if new else []
    return f"{name} {' and '.join(told)}"


def receive_ring_size(qmp: QmpConnection, nic: str = "nic0") -> int:
    """Buffers of a virtio-net device's first receive ring (x-query-virtio-queue-status); the most where QEMU won't say.

    The property rx_queue_size does not tell it: stable releases make every ring as large as can be.
    """
    try:
        status: Mapping[str, Any] = qmp.execute(
            "x-query-virtio-queue-status", {"path": NIC_PATH.format(nic), "queue": 0}
        )
    except QmpRefused:
        return LARGEST_RING
    return int(status["vring-num"])
