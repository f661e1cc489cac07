"""Taps and macvtaps: open a queue, read the state of each queue and the offloads of the interface.

A macvtap is a character device for each interface, of which every open makes a queue. The kernel reports less of such a
queue (drivers/net/tap.c): fdinfo has no ``iff``, TUNGETIFF has no IFF_DETACH_QUEUE, and TUNGETSNDBUF is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import socket
import stat
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import EnvironmentFailure, InstrumentError
from cprlib.linux.descriptors import MACVTAP_FOLDER, read_table
from cprlib.linux.ioctls import TUNGETIFF, TUNGETSNDBUF, TUNGETVNETBE, TUNGETVNETHDRSZ, TUNGETVNETLE, TUNSETIFF
from cprlib.linux.libc import duplicate_descriptor, mount_sysfs
from cprlib.linux.namespace import ADVICE, NetworkNamespace

# linux/if_tun.h
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
IFF_DETACH_QUEUE, IFF_PERSIST = 0x0400, 0x0800
FLAG_NAMES = {
    IFF_TAP: "tap",
    IFF_NO_PI: "no_pi",
    IFF_VNET_HDR: "vnet_hdr",
    IFF_MULTI_QUEUE: "multi_queue",
    IFF_PERSIST: "persist",
}
SIOCETHTOOL, ETHTOOL_GFEATURES = 0x8946, 0x3A  # linux/sockios.h, linux/ethtool.h
ETHTOOL_FEATURES = struct.Struct("10I")
IFREQ = struct.Struct("16sH22x")
WITHOUT_INTERFACE = (errno.EBADFD, errno.ENOLINK)  # of TUNGETIFF: drivers/net/tun.c, drivers/net/tap.c
NO_INTERFACE = "none"


@dataclass(frozen=True, slots=True)
class TapQueue:
    """State of one tap queue in the kernel.

    :param number: the descriptor in its process.
    :param interface: ``none`` for a descriptor that has none, or whose interface was deleted.
    :param detached: disabled by TUNSETQUEUE: it carries nothing until it is attached again. None for a macvtap, of
        which the kernel does not report it.
    :param header_bytes: length of the header before each packet (TUNGETVNETHDRSZ): 10, or 12 for virtio 1.
    :param flags: names of the flags that the tap was opened with.
    :param send_buffer: bytes (TUNGETSNDBUF); None for a macvtap.
    :param byte_order: the header's (TUNSETVNETLE, TUNSETVNETBE): ``native``, ``little``, ``big``.
    """

    number: int
    interface: str
    detached: bool | None
    header_bytes: int
    flags: tuple[str, ...]
    send_buffer: int | None
    byte_order: str

    def facts(self) -> Mapping[str, str]:
        """The state that an update must not change: all except the descriptor's number."""
        facts = {
            "interface": self.interface,
            "vnet header": f"{self.header_bytes} bytes",
            "flags": ", ".join(self.flags),
            "byte order": self.byte_order,
        }
        facts |= {} if self.detached is None else {"queue": "detached" if self.detached else "attached"}
        return facts | ({} if self.send_buffer is None else {"send buffer": f"{self.send_buffer} bytes"})


def open_tap(interface: str, *, macvtap: bool = False, multi_queue: bool = False, vnet_hdr: bool = True) -> int:
    """Open one queue of a tap or macvtap in the network namespace of the calling thread.

    The kernel creates a missing tap and deletes it with its last descriptor. /dev has no node for a macvtap, or that of
    another namespace's device with the same number: one is made for the moment.

    :returns: a descriptor, which the caller closes.
    :raises EnvironmentFailure: the kernel refuses: no tun, no right, another kind of tap, no macvtap of this name.
    """
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if vnet_hdr else 0) | (IFF_MULTI_QUEUE if multi_queue else 0)
    opened = -1
    try:
        opened = _open_macvtap(interface) if macvtap else os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(opened, TUNSETIFF, IFREQ.pack(interface.encode(), flags))
    except OSError as error:
        if opened >= 0:
            os.close(opened)
        raise EnvironmentFailure(f"open {'macvtap' if macvtap else 'tap'} {interface}", str(error), ADVICE) from error
    return opened


def _open_macvtap(interface: str) -> int:
    """Open the character device of a macvtap by a node in /dev; other file systems may be mounted nodev."""
    name, device = _macvtap_device(interface)
    with tempfile.TemporaryDirectory(prefix=MACVTAP_FOLDER, dir="/dev") as folder:
        node = Path(folder) / name
        os.mknod(node, stat.S_IFCHR | 0o600, device)
        return os.open(node, os.O_RDWR | os.O_CLOEXEC)


def _macvtap_device(interface: str) -> tuple[str, int]:
    """Name and number of an interface's character device, from sysfs of the calling thread's network namespace.

    :raises OSError: there is none.
    """
    root = mount_sysfs()
    try:
        folder = f"class/net/{interface}"
        parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            name = next((item for item in os.listdir(parent) if re.fullmatch(r"tap\d+", item)), None)
            if name is None:
                raise FileNotFoundError(f"{folder} has no character device")
            with open(os.open(f"{name}/dev", os.O_RDONLY | os.O_CLOEXEC, dir_fd=parent), encoding="ascii") as file:
                major, minor = file.read().split(":")
        finally:
            os.close(parent)
        return name, os.makedev(int(major), int(minor))
    finally:
        os.close(root)


def read_tap_queues(pid: int) -> tuple[TapQueue, ...]:
    """Read every tap queue that a process has open, in the order of its descriptors.

    Reading a queue duplicates its descriptor for a moment. The duplicate keeps the queue alive and would hide a lost
    descriptor, so call this while the guest is idle and no update runs.

    :raises InstrumentError: the process is gone, or the caller may not trace it.
    """
    rows = read_table(pid).of_kind("tap")
    try:
        return tuple(_read_queue(pid, row.number) for row in rows)
    except OSError as error:
        raise InstrumentError(
            f"read the tap queues of process {pid}",
            str(error),
            "run as root or in the lab: pidfd_getfd needs the right to trace QEMU",
        ) from error


def _read_queue(pid: int, number: int) -> TapQueue:
    duplicate = duplicate_descriptor(pid, number)
    try:
        try:
            name, flags = IFREQ.unpack(fcntl.ioctl(duplicate, TUNGETIFF, bytes(IFREQ.size)))
        except OSError as error:
            if error.errno not in WITHOUT_INTERFACE:
                raise
            return TapQueue(number, NO_INTERFACE, None, 0, (), None, "native")
        little, big, send_buffer = _read_integer(duplicate, TUNGETVNETLE), 0, None
        with contextlib.suppress(OSError):  # a kernel without CONFIG_TUN_VNET_CROSS_LE
            big = _read_integer(duplicate, TUNGETVNETBE)
        with contextlib.suppress(OSError):  # a macvtap
            send_buffer = _read_integer(duplicate, TUNGETSNDBUF)
        return TapQueue(
            number=number,
            interface=name.rstrip(b"\0").decode("ascii", "replace"),
            detached=None if send_buffer is None else bool(flags & IFF_DETACH_QUEUE),
            header_bytes=_read_integer(duplicate, TUNGETVNETHDRSZ),
            flags=tuple(word for bit, word in FLAG_NAMES.items() if flags & bit),
            send_buffer=send_buffer,
            byte_order="big" if big else "little" if little else "native",
        )
    finally:
        os.close(duplicate)


def offload_bits(namespace: NetworkNamespace, interface: str) -> str:
    """The active offloads of an interface as bits of netdev features (ETHTOOL_GFEATURES), in hexadecimal.

    Quicker than :func:`interface_offloads`, and without their names.

    :raises OSError: there is no such interface.
    """
    request = ctypes.create_string_buffer(ETHTOOL_FEATURES.pack(ETHTOOL_GFEATURES, 2, *[0] * 8))
    with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(request)))
    fields = ETHTOOL_FEATURES.unpack(request.raw[: ETHTOOL_FEATURES.size])
    low, high = fields[4], fields[8]  # of each block: available, requested, active, never_changed
    return f"{high << 32 | low:#x}"


def _read_integer(descriptor: int, request: int) -> int:
    return int(struct.unpack("=i", fcntl.ioctl(descriptor, request, bytes(4)))[0])


def interface_offloads(namespace: NetworkNamespace, interface: str) -> Mapping[str, str]:
    """Offloads of an interface, as ``ethtool -k``; for a tap they show what TUNSETOFFLOAD has set for its reader.

    :returns: ``on`` or ``off`` for each that can be changed.
    :raises InstrumentError: there is no such interface.
    """
    from pyroute2.ethtool.ioctl import IoctlEthtool  # noqa: PLC0415 - takes 0.3 s, and a report needs no netlink

    with namespace.entered():
        ethtool = IoctlEthtool(interface)
    try:
        return {str(name): "on" if on else "off" for name, on, changeable, *_ in ethtool.get_features() if changeable}
    except (OSError, KeyError, ValueError) as error:
        raise InstrumentError(f"read the offloads of {interface}", str(error)) from error
    finally:
        ethtool.close()
