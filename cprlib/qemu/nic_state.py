"""A virtio-net device as QEMU has it: rings, vhost, receive filters; differences between two states.

What takes a connection raises what :meth:`QmpConnection.execute` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cprlib.errors import InstrumentError, QmpRefused
from cprlib.qemu.qmp import QmpConnection
from cprlib.qemu.state import QUEUE_STATUS, VHOST_QUEUE_STATUS

Facts = Mapping[str, str]

MAX_RING_SIZE = 1024  # VIRTQUEUE_MAX_SIZE, include/hw/virtio/virtio.h
# Feature bits that driver and device agree on: VIRTIO_F_..., virtio 1.3 section 6
VERSION_1, RING_PACKED, RING_RESET = 32, 34, 40  # the first one: no legacy device
# VIRTIO_NET_F_..., virtio 1.3 section 5.1.3
GUEST_CSUM, GUEST_TSO4 = 1, 7  # without the first, QEMU gives the tap none of the receive offloads
GUEST_USO4 = 54  # the driver takes UDP packets that are larger than the MTU
MRG_RXBUF = 15  # a packet may have several receive buffers
STATUS = 16  # the driver sees the link
ANNOUNCE_FEATURES = STATUS, 17, 21  # with _CTRL_VQ and _GUEST_ANNOUNCE the guest announces itself when QEMU asks it to
CTRL_RX, CTRL_VLAN, CTRL_MAC_ADDR = 18, 19, 23  # the driver sets receive mode and addresses, VLANs, its own address
RSS = 60
FIRST_NIC_ID = "nic0"  # in QEMU
NIC_PATH = f"/machine/peripheral/{FIRST_NIC_ID}/virtio-backend"


def filter_facts(qmp: QmpConnection) -> Facts:
    """Receive filters of the guest's first NIC: addresses, VLANs, modes (query-rx-filter). Tables are sorted."""
    return facts_from_filter(qmp.execute("query-rx-filter", {"name": FIRST_NIC_ID})[0])


def facts_from_filter(information: Mapping[str, Any]) -> Facts:
    """Facts from a RxFilterInfo (QEMU qapi/net.json)."""

    def text(value: object) -> str:
        if isinstance(value, list):
            return " ".join(str(item) for item in sorted(value))
        return str(value).lower()

    return {name: text(value) for name, value in information.items() if name != "name"}


def differences(before: Facts, after: Facts) -> tuple[str, ...]:
    """Differences between two states, one line each. Of long lists only the added and removed words."""
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
    changes = [f"lost {' '.join(gone)}"] if gone else []
    changes += [f"gained {' '.join(new)}"] if new else []
    return f"{name} {' and '.join(changes)}"


def _queue_status(qmp: QmpConnection, queue: int = 0) -> Mapping[str, Any]:
    """State of a queue of the first NIC; by default, of its first receive ring.

    :raises QmpRefused: vhost has it, or this QEMU does not report it.
    """
    status: Mapping[str, Any] = qmp.execute(QUEUE_STATUS, {"path": NIC_PATH, "queue": queue})
    return status


def receive_ring_size(qmp: QmpConnection) -> int:
    """Size of the first NIC's first receive ring (x-query-virtio-queue-status); the maximum if QEMU refuses.

    The property rx_queue_size is not the size: stable releases always make the largest ring.
    """
    try:
        return int(_queue_status(qmp)["vring-num"])
    except QmpRefused:
        return MAX_RING_SIZE


def receive_buffers(qmp: QmpConnection, pair: int = 0) -> int:
    """Buffers that the driver has put into a receive ring of the first NIC and that no packet has, without vhost.

    Of a split ring (x-query-virtio-queue-status, -element): QEMU refuses a packed one.

    :param pair: number of the queue pair.
    """
    used = int(_queue_status(qmp, 2 * pair)["last-avail-idx"])
    element = qmp.execute("x-query-virtio-queue-element", {"path": NIC_PATH, "queue": 2 * pair})
    put = int(element["avail"]["idx"])
    return (put - used) % (1 << 16)


def has_ring(qmp: QmpConnection) -> bool:
    """Whether a driver has set up the first NIC's first receive ring (x-query-virtio-queue-status)."""
    return bool(_queue_status(qmp)["vring-desc"])


def leaves_out_interrupts(qmp: QmpConnection) -> bool | None:
    """Whether QEMU knows the last interrupt of the first NIC's first receive ring, by which it leaves out others.

    With VIRTIO_F_EVENT_IDX, and without vhost (``signalled-used-valid``; virtio_should_notify(), hw/virtio/virtio.c).

    :returns: None where QEMU does not report it.
    """
    try:
        return bool(_queue_status(qmp)["signalled-used-valid"])
    except QmpRefused:
        return None


def vhost_started(qmp: QmpConnection) -> bool:
    """Whether vhost carries the packets of the guest's first NIC: QEMU then has the state of its queue.

    x-query-virtio-status would say it too, but can abort QEMU (:data:`cprlib.qemu.state.NOT_SENT`).

    :raises InstrumentError: this QEMU does not report vhost.
    """
    try:
        qmp.execute(VHOST_QUEUE_STATUS, {"path": NIC_PATH, "queue": 0})
    except QmpRefused as error:
        if error.error_class == "CommandNotFound":
            tried = f"ask the {qmp.name} whether vhost carries its packets"
            raise InstrumentError(tried, f"it has no command {VHOST_QUEUE_STATUS}") from error
        return False
    return True
