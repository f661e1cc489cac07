"""What goes over a migration channel at once: bytes, and the descriptors that come with them."""

from __future__ import annotations

import array
import os
import socket
from dataclasses import dataclass

MOST_DESCRIPTORS = 253  # SCM_MAX_FD, include/net/scm.h
PIECE = 65536  # bytes read at once


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes as they were read from the source, and the descriptors that came with them."""

    data: bytes
    descriptors: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors: a copy of a tap's would keep its queue alive."""
        for number in self.descriptors:
            os.close(number)


def receive(connection: socket.socket) -> Piece:
    """Read what there is, with descriptors; no bytes at the end of the stream."""
    size = array.array("i").itemsize
    data, messages, _, _ = connection.recvmsg(
        PIECE, socket.CMSG_SPACE(MOST_DESCRIPTORS * size), socket.MSG_CMSG_CLOEXEC
    )
    numbers = array.array("i")
    for level, kind, content in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) - len(content) % size])
    return Piece(data, tuple(numbers))


def send(connection: socket.socket, piece: Piece) -> None:
    """Write a piece; its descriptors go with its first byte."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", piece.descriptors))] if piece.descriptors else []
    sent = connection.sendmsg([piece.data], rights)
    if sent < len(piece.data):
        connection.sendall(piece.data[sent:])
