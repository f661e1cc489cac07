"""Files that a manager opens for a netdev and passes to QEMU, which needs no right to open them then.

A manager must not keep its copies: an open file lives as long as anybody has it, and hides what QEMU loses.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cprlib.errors import EnvironmentFailure
from cprlib.qemu.netdev import TapNetdev

TUNSETIFF = 0x400454CA  # linux/if_tun.h, likewise below
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100


@dataclass(frozen=True, slots=True)
class PassedFiles:
    """Descriptors of this process, one per queue."""

    tap: tuple[int, ...] = ()
    vhost: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.tap, *self.vhost)


def open_tap(interface: str, *, multi_queue: bool = False, vnet_hdr: bool = True, blocking: bool = True) -> int:
    """Open one queue of a tap in the network namespace of the calling thread.

    A tap that does not exist is made, and is gone with its last descriptor.

    :returns: a descriptor, which the caller closes.
    :raises EnvironmentFailure: the kernel refuses: no tun, no right, or another kind of tap.
    """
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if vnet_hdr else 0) | (IFF_MULTI_QUEUE if multi_queue else 0)
    opened = -1
    try:
        opened = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | (0 if blocking else os.O_NONBLOCK))
        fcntl.ioctl(opened, TUNSETIFF, struct.pack("16sH22x", interface.encode(), flags))
    except OSError as error:
        if opened >= 0:
            os.close(opened)
        raise EnvironmentFailure(f"open tap {interface}", str(error)) from error
    return opened


def _open_vhost() -> int:
    try:
        return os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentFailure("open /dev/vhost-net", str(error), "use the lab: cprlib run --lab") from error


@contextlib.contextmanager
def opened_files(netdev: TapNetdev) -> Iterator[PassedFiles]:
    """Open what a manager passes for a netdev, in the namespace of the calling thread; closed when the body ends.

    :raises EnvironmentFailure: the kernel refuses.
    """
    with contextlib.ExitStack() as stack:

        def kept(opened: int) -> int:
            stack.callback(os.close, opened)
            return opened

        tap = netdev.queues if netdev.tap_passed else 0
        vhost = netdev.queues if netdev.vhost_passed else 0
        yield PassedFiles(
            tuple(kept(open_tap(netdev.interface, multi_queue=netdev.queues > 1)) for _ in range(tap)),
            tuple(kept(_open_vhost()) for _ in range(vhost)),
        )
