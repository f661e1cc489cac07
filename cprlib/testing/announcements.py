"""Frames by which switches learn the guest's port: ARP from the guest, RARP from QEMU."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from cprlib.deadline import Deadline
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import STATION_INTERFACE

KINDS = {0x0806: "ARP", 0x8035: "RARP"}  # by ETH_P_ARP and ETH_P_RARP, linux/if_ether.h

Announcement = tuple[str, str]
"""Kind and link-layer address of the sender."""


@contextlib.contextmanager
def listen(namespace: NetworkNamespace) -> Iterator[list[socket.socket]]:
    """Sockets that receive the frames at the station's interface that announce an address, and no others."""
    with contextlib.ExitStack() as stack:
        with namespace.entered():
            opened = [
                stack.enter_context(
                    socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(kind))
                )
                for kind in KINDS
            ]
        for item, kind in zip(opened, KINDS, strict=True):
            item.bind((STATION_INTERFACE, kind))
        yield opened


def announced_by(
    opened: Sequence[socket.socket], expected: AbstractSet[Announcement], deadline: Deadline, least: int = 0
) -> set[Announcement]:
    """Wait for announcements.

    :param opened: from :func:`listen`.
    :param least: number of those expected after which the wait ends; 0 for all of them.
    :returns: those of the expected that came.
    """
    seen: set[Announcement] = set()
    while len(seen) < (least or len(expected)) and not deadline.expired:
        ready, _, _ = select.select(opened, [], [], deadline.remaining)
        for item in ready:
            received = item.recv(2048)
            if len(received) >= 14:
                kind = KINDS.get(int.from_bytes(received[12:14]), "")
                seen |= {(kind, received[6:12].hex(":"))} & expected
    return seen
