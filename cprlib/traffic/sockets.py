"""Sockets of the instrument: opened in the network namespace of the calling thread, with the kernel's time stamps."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterator, Sequence

from cprlib.errors import EnvironmentFailure

SO_TIMESTAMPNS = 35  # asm-generic/socket.h
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
_TIMESPEC = struct.Struct("@qq")
_INSTRUCTION = struct.Struct("=HBBI")  # sock_filter, linux/filter.h

ACCEPT_NOTHING = ((0x06, 0, 0, 0),)  # BPF_RET | BPF_K, 0 bytes (linux/filter.h)

Ancillary = Sequence[tuple[int, int, bytes]]  # of recvmsg(2): level, type, data


@contextlib.contextmanager
def new_socket(family: int, kind: int, tried: str, advice: str = "") -> Iterator[socket.socket]:
    """A socket that the body sets up; it is closed only if the body fails.

    A packet socket receives nothing until it is bound to a protocol.

    :param tried, advice: for the error.
    :raises EnvironmentFailure: the kernel refuses the socket, or an option or address that the body gives it.
    """
    with contextlib.ExitStack() as on_failure:
        try:
            opened = on_failure.enter_context(socket.socket(family, kind | socket.SOCK_CLOEXEC, 0))
            yield opened
        except OSError as error:
            raise EnvironmentFailure(tried, error.strerror or str(error), advice) from error
        on_failure.pop_all()


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def open_sending(interface: str) -> socket.socket:
    """A packet socket for sending on an interface, e.g. ``eth0``.

    :raises EnvironmentFailure: no such interface, or no right to open packet sockets.
    """
    advice = "check that it is in this network namespace, and run as root or in the lab"
    with new_socket(socket.AF_PACKET, socket.SOCK_RAW, f"send on interface {interface}", advice) as opened:
        opened.bind((interface, 0))  # protocol 0: it receives nothing
        return opened


def attach_filter(opened: socket.socket, instructions: Sequence[tuple[int, int, int, int]]) -> None:
    """Let a socket receive only what a classic BPF program accepts (Documentation/networking/filter.rst).

    :param instructions: code, jump if true, jump if false, operand.
    """
    program = b"".join(_INSTRUCTION.pack(*item) for item in instructions)
    buffer = ctypes.create_string_buffer(program, len(program))
    opened.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(instructions), ctypes.addressof(buffer))
    )


def by_kind(ancillary: Ancillary) -> dict[tuple[int, int], bytes]:
    return {(level, kind): data for level, kind, data in ancillary}


def kernel_time_ns(ancillary: Ancillary) -> int | None:
    """When the kernel received a datagram, of a socket with SO_TIMESTAMPNS."""
    data = by_kind(ancillary).get((socket.SOL_SOCKET, SO_TIMESTAMPNS))
    if data is None:
        return None
    seconds, nanoseconds = _TIMESPEC.unpack(data)
    return int(seconds * 1_000_000_000 + nanoseconds)
