"""Keep the kernel from answering our answers: bound UDP sockets that take nothing in."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from types import TracebackType

from cprlib.errors import EnvironmentFailure
from cprlib.traffic.flow import Flow

SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_RETURN_0 = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K, 0: keep no byte (linux/filter.h)


class HeldPorts:
    """Holds the source ports of flows in the namespace of the thread that makes it, as a context manager.

    Without a socket the kernel would send "port unreachable" for every answer. A filter drops the answers at the socket
    (drop reason SOCKET_FILTER, which the ledger knows), so that no buffer overflows; the capture has seen them by then.

    :raises EnvironmentFailure: an address is not configured here, or a port is taken.
    """

    def __init__(self, flows: Sequence[Flow]) -> None:
        self._sockets: list[socket.socket] = []
        try:
            for flow in flows:
                self._hold(flow)
        except OSError as error:
            self.close()
            raise EnvironmentFailure(
                f"hold UDP port {flow.source_port} of {flow.source}",
                error.strerror or str(error),
                "end the other session, or add the address to the station",
            ) from error

    def _hold(self, flow: Flow) -> None:
        family = socket.AF_INET6 if flow.version == 6 else socket.AF_INET
        held = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sockets.append(held)
        program = ctypes.create_string_buffer(_RETURN_0, len(_RETURN_0))
        held.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))
        held.bind((flow.source, flow.source_port))

    def __enter__(self) -> HeldPorts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the ports."""
        for held in self._sockets:
            held.close()
        self._sockets.clear()
