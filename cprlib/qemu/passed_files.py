"""Files that a manager opens for a netdev and passes to QEMU, which needs no right to open them then.

A manager must not keep its copies: an open file lives as long as anybody has it, and hides what QEMU loses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from cprlib.errors import EnvironmentFailure
from cprlib.linux.tap import open_tap
from cprlib.qemu.netdev import TapNetdev


@dataclass(frozen=True, slots=True)
class PassedFiles:
    """Descriptors of this process, one per queue."""

    tap: tuple[int, ...] = ()
    vhost: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.tap, *self.vhost)


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
