"""What a guest, or QEMU for it, says of itself on the network after an update, so that switches learn its place."""

from __future__ import annotations

import contextlib
import socket
import struct
from types import TracebackType

from cprlib.deadline import Deadline
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import STATION_INTERFACE

ETH_P_ALL = 3  # linux/if_ether.h
KINDS = {0x0806: "ARP", 0x8035: "RARP"}


class Announcements:
    """Listens on the station's interface while its body runs, as a context manager."""

    def __init__(self, namespace: NetworkNamespace) -> None:
        self._namespace = namespace

    def __enter__(self) -> Announcements:
        with self._namespace.entered():
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            self._opened = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
        self._opened.bind((STATION_INTERFACE, ETH_P_ALL))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()

    def wait_for(self, mac: str, deadline: Deadline) -> str | None:
        """Wait for a frame that announces an address.

        :returns: ``ARP`` when the guest itself did, ``RARP`` when QEMU did; None when nobody has.
        """
        wanted = bytes.fromhex(mac.replace(":", ""))
        with contextlib.suppress(TimeoutError):
            while not deadline.expired:
                self._opened.settimeout(max(deadline.remaining, 0.001))
                frame = self._opened.recv(2048)
                (kind,) = struct.unpack_from("!H", frame, 12) if len(frame) >= 14 else (0,)
                if kind in KINDS and frame[6:12] == wanted:
                    return KINDS[kind]
        return None
