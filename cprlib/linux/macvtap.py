"""Queues of a macvtap: character devices, one for each interface, of which every open makes a queue.

The kernel reports less of such a queue than of a tap's (drivers/net/tap.c): fdinfo has no ``iff``, TUNGETIFF has no
IFF_DETACH_QUEUE, and TUNGETSNDBUF is refused.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
from pathlib import Path

from cprlib.errors import EnvironmentFailure
from cprlib.linux.libc import mount_sysfs
from cprlib.linux.tap import IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, IFREQ, TUNSETIFF

DEVICES, PREFIX = "/dev", "macvtap-"  # other file systems may be mounted without devices (nodev)
ADVICE = "run as root or in the lab (cprlib doctor names what is missing)"


def open_macvtap(interface: str, *, multi_queue: bool = False) -> int:
    """Open one more queue of a macvtap in the network namespace of the calling thread.

    /dev has no node for it, or that of another namespace's device with the same number: one is made for the moment.

    :returns: a descriptor, which the caller closes.
    :raises EnvironmentFailure: the kernel refuses: no macvtap of this name, or no right to make a node.
    """
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if multi_queue else 0)
    opened = -1
    try:
        name, device = _device(interface)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=DEVICES) as folder:
            node = Path(folder) / name
            os.mknod(node, stat.S_IFCHR | 0o600, device)
            opened = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(opened, TUNSETIFF, IFREQ.pack(interface.encode(), flags))
    except OSError as error:
        if opened >= 0:
            os.close(opened)
        raise EnvironmentFailure(f"open macvtap {interface}", str(error), ADVICE) from error
    return opened


def _device(interface: str) -> tuple[str, int]:
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
