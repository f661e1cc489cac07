"""A NIC seen from outside the guest: each queue of its tap, the tap's offloads, the device's features, its filters.

Two views of one NIC, before and after an update, are compared fact by fact. Looking at a tap queue takes a copy of
QEMU's descriptor for a moment (pidfd_getfd(2)): a copy keeps the queue alive, and would hide the very loss that is
looked for. So look while the guest is at rest, never while descriptors change hands.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyroute2.ethtool.ioctl import IoctlEthtool

from cprlib.errors import InstrumentError, QmpRefused
from cprlib.linux.descriptors import read_table
from cprlib.linux.namespace import NetworkNamespace
from cprlib.qemu.qmp import QmpConnection

Facts = Mapping[str, str]

SYS_PIDFD_GETFD = 438  # asm-generic/unistd.h, the same on every architecture
TUNGETIFF, TUNGETSNDBUF, TUNGETVNETHDRSZ = 0x800454D2, 0x800454D3, 0x800454D7  # linux/if_tun.h
TUNGETVNETLE, TUNGETVNETBE = 0x800454DD, 0x800454DF
IFF_DETACH_QUEUE = 0x0400
LARGEST_RING = 1024  # VIRTQUEUE_MAX_SIZE, include/hw/virtio/virtio.h
FLAG_NAMES = {0x0002: "tap", 0x1000: "no_pi", 0x4000: "vnet_hdr", 0x0100: "multi_queue", 0x0800: "persist"}
IFREQ = struct.Struct("16sH22x")
NIC_PATH = "/machine/peripheral/{}/virtio-backend"


@dataclass(frozen=True, slots=True)
class TapQueue:
    """One queue of a tap, as the kernel has it.

    :param number: the descriptor in its process.
    :param detached: disabled by TUNSETQUEUE: it carries nothing until it is attached again.
    :param header_bytes: length of the header before each packet (TUNGETVNETHDRSZ): 10, or 12 for virtio 1.
    :param flags: what the tap was opened with, by name.
    :param send_buffer: bytes (TUNGETSNDBUF).
    :param byte_order: of the header, as asked for by TUNSETVNETLE and TUNSETVNETBE: ``native``, ``little``, ``big``.
    """

    number: int
    interface: str
    detached: bool
    header_bytes: int
    flags: tuple[str, ...]
    send_buffer: int
    byte_order: str

    def facts(self) -> Facts:
        """What must not change in an update: everything but the descriptor's number."""
        return {
            "interface": self.interface,
            "queue": "detached" if self.detached else "attached",
            "vnet header": f"{self.header_bytes} bytes",
            "flags": ", ".join(self.flags),
            "send buffer": f"{self.send_buffer} bytes",
            "byte order": self.byte_order,
        }


def _copy_of(pid: int, number: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        copy = int(libc.syscall(SYS_PIDFD_GETFD, process, number, 0))
    finally:
        os.close(process)
    if copy < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return copy


def _ask_integer(descriptor: int, request: int) -> int:
    answer = fcntl.ioctl(descriptor, request, bytes(4))
    return int(struct.unpack("=i", answer)[0])


def _look_at_queue(pid: int, number: int) -> TapQueue:
    copy = _copy_of(pid, number)
    try:
        name, flags = IFREQ.unpack(fcntl.ioctl(copy, TUNGETIFF, bytes(IFREQ.size)))
        little, big = _ask_integer(copy, TUNGETVNETLE), 0
        try:
            big = _ask_integer(copy, TUNGETVNETBE)
        except OSError:  # a kernel without CONFIG_TUN_VNET_CROSS_LE
            big = 0
        return TapQueue(
            number=number,
            interface=name.rstrip(b"\0").decode("ascii", "replace"),
            detached=bool(flags & IFF_DETACH_QUEUE),
            header_bytes=_ask_integer(copy, TUNGETVNETHDRSZ),
            flags=tuple(word for bit, word in FLAG_NAMES.items() if flags & bit),
            send_buffer=_ask_integer(copy, TUNGETSNDBUF),
            byte_order="big" if big else "little" if little else "native",
        )
    finally:
        os.close(copy)


def look_at_queues(pid: int) -> tuple[TapQueue, ...]:
    """Every tap queue that a process has open, in the order of its descriptors; only while the guest is at rest.

    :raises InstrumentError: the process is gone or may not be traced.
    """
    rows = read_table(pid).of_kind("tap")
    try:
        return tuple(_look_at_queue(pid, row.number) for row in rows)
    except OSError as error:
        raise InstrumentError(
            f"ask the kernel about the tap queues of process {pid}",
            str(error),
            "run as root or in the lab: pidfd_getfd needs the right to trace QEMU",
        ) from error


def interface_offloads(namespace: NetworkNamespace, interface: str) -> Facts:
    """Offloads of an interface, as ``ethtool -k``; of a tap they show what TUNSETOFFLOAD set for its reader.

    :returns: ``on`` or ``off`` for each that can be changed.
    :raises InstrumentError: there is no such interface.
    """
    with namespace.entered():
        asked = IoctlEthtool(interface)
    try:
        return {str(name): "on" if on else "off" for name, on, changeable, *_ in asked.get_features() if changeable}
    except (OSError, KeyError, ValueError) as error:
        raise InstrumentError(f"read the offloads of {interface}", str(error)) from error
    finally:
        asked.close()


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
