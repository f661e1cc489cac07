"""An endpoint of a TCP connection that must survive a live update; the other endpoint is in the guest's agent.

A source sends at a constant rate and closes its half; a sink reads until then. Both compute the CRC-32 of the content,
which differs when content was lost, duplicated or changed. TCP_INFO (linux/tcp.h) counts retransmissions. The longest
time without progress is the interruption that an application notices.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import random
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.traffic.sockets import family_of, new_socket

BLOCK = 16384  # bytes per send or read
TICK_MS = 10
CONNECT_S = 20.0
_TOTAL_RETRANS_OFFSET, _INFO_SIZE = 100, 104  # struct tcp_info


class TcpRole(enum.StrEnum):
    """A source sends, a sink receives."""

    SOURCE = "source"
    SINK = "sink"

    @property
    def opposite(self) -> TcpRole:
        """The role of the other endpoint."""
        return TcpRole.SINK if self is TcpRole.SOURCE else TcpRole.SOURCE


@dataclass(frozen=True, slots=True)
class TcpEndpointSettings:
    """An endpoint of a connection.

    :param address: to connect to; None: wait for one connection on ``port``.
    :param rate: bytes/s that a source sends.
    :param byte_count: bytes that a source sends before it closes its half, 0 for "until finished".
    :param seed: seed of the content.
    """

    role: TcpRole
    port: int
    address: str | None = None
    rate: int = 100_000
    byte_count: int = 0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class TcpEndpointReport:
    """The account of an endpoint.

    :param crc32: of the content.
    :param longest_stall_ns: longest time without progress between the first byte and the last.
    :param retransmissions: segments that this endpoint sent again, TCP_INFO tcpi_total_retrans.
    :param error: name of the error that ended the connection (``ECONNRESET``), empty for none.
    :param complete: both endpoints closed the connection in order.
    """

    role: TcpRole
    byte_count: int
    crc32: int
    longest_stall_ns: int
    retransmissions: int
    error: str
    complete: bool


class TcpEndpoint:
    """Runs an endpoint in a thread; a context manager.

    Its socket belongs to the network namespace of the calling thread.

    :raises EnvironmentFailure: the port is taken.
    """

    def __init__(self, settings: TcpEndpointSettings) -> None:
        self.settings = settings
        self._crc32 = self._byte_count = self._stall_ns = self._progress_ns = 0
        self._info = bytes(_INFO_SIZE)
        self._error = ""
        self._complete = False
        self._finish = threading.Event()
        self._abort = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tcp-{settings.role}", daemon=True)
        self._opened = self._open()

    def _open(self) -> socket.socket:
        address, tried = self.settings.address, f"use TCP port {self.settings.port}"
        family = socket.AF_INET6 if address is None else family_of(address)
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        with new_socket(family, kind, tried, "end its user, or choose another port") as opened:
            if address is None:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # accepts IPv4 too, as mapped addresses
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.bind(("::", self.settings.port))
                opened.listen(1)
            return opened

    def __enter__(self) -> TcpEndpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._abort.set()
        self._thread.join()
        self._opened.close()

    @property
    def byte_count(self) -> int:
        return self._byte_count

    def finish(self, deadline: Deadline) -> TcpEndpointReport:
        """Let a source close its half, wait until the other endpoint has closed too, and report.

        A connection that is still open at the deadline is reported as incomplete; nothing is raised.
        """
        self._finish.set()
        self._thread.join(deadline.remaining)
        if self._thread.is_alive():
            self._abort.set()
            self._thread.join()
            self._error = self._error or "ETIMEDOUT"
        return TcpEndpointReport(
            role=self.settings.role,
            byte_count=self._byte_count,
            crc32=self._crc32,
            longest_stall_ns=self._stall_ns,
            retransmissions=struct.unpack_from("=I", self._info, _TOTAL_RETRANS_OFFSET)[0],
            error=self._error,
            complete=self._complete,
        )

    def _run(self) -> None:
        try:
            with self._connected() as connection:
                try:
                    (self._send if self.settings.role is TcpRole.SOURCE else self._receive)(connection)
                finally:
                    self._info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
        except OSError as error:
            self._error = errno.errorcode.get(error.errno or 0, str(error))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        deadline = Deadline(CONNECT_S, "a TCP connection")
        if self.settings.address is None:
            self._wait(self._opened, select.POLLIN, deadline)
            connection, _ = self._opened.accept()
            connection.setblocking(False)
            with connection:
                yield connection
            return
        code = self._opened.connect_ex((self.settings.address, self.settings.port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        self._wait(self._opened, select.POLLOUT, deadline)
        code = self._opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        yield self._opened

    def _wait(self, opened: socket.socket, events: int, deadline: Deadline | None = None) -> None:
        poll = select.poll()
        poll.register(opened, events)
        while not poll.poll(TICK_MS):
            if self._abort.is_set() or (deadline is not None and deadline.expired):
                raise OSError(errno.ETIMEDOUT, "no progress before the deadline")

    def _progress(self, block: bytes | memoryview) -> None:
        now = time.monotonic_ns()
        if self._byte_count:
            self._stall_ns = max(self._stall_ns, now - self._progress_ns)
        self._progress_ns = now
        self._byte_count += len(block)
        self._crc32 = zlib.crc32(block, self._crc32)

    def _send(self, connection: socket.socket) -> None:
        content = random.Random(self.settings.seed)  # noqa: S311 - varied content, not a secret
        waiting = memoryview(b"")
        portion = max(1, self.settings.rate * TICK_MS // 1000)  # less is not worth a segment
        start = time.monotonic()
        while not self._finish.is_set() and not self._abort.is_set():
            allowed = int((time.monotonic() - start) * self.settings.rate)
            if self.settings.byte_count:
                if self._byte_count >= self.settings.byte_count:
                    break
                allowed = min(allowed, self.settings.byte_count)
                portion = min(portion, self.settings.byte_count - self._byte_count)
            if allowed < self._byte_count + portion:
                self._finish.wait(TICK_MS / 1000)
                continue
            waiting = waiting or memoryview(content.randbytes(BLOCK))
            try:
                sent = connection.send(waiting[: allowed - self._byte_count])
            except BlockingIOError:
                self._wait(connection, select.POLLOUT)
                continue
            self._progress(waiting[:sent])
            waiting = waiting[sent:]
        connection.shutdown(socket.SHUT_WR)
        while self._read(connection) is not None:  # until the sink has read everything and closed
            pass
        self._complete = True

    def _receive(self, connection: socket.socket) -> None:
        while (block := self._read(connection)) is not None:
            self._progress(block)
        connection.shutdown(socket.SHUT_WR)
        self._complete = True

    def _read(self, connection: socket.socket) -> bytes | None:
        """The next bytes; None when the other endpoint has closed."""
        while True:
            try:
                return connection.recv(BLOCK) or None
            except BlockingIOError:
                self._wait(connection, select.POLLIN)


def content_errors(end: TcpEndpointReport, other_bytes: int, other_crc32: int, other_errno: int = 0) -> tuple[str, ...]:
    """The errors of a connection; empty when all content arrived unchanged and the connection was closed in order.

    :param end: the report of one endpoint, source or sink; :param other_bytes: bytes of content at the other one.
    :param other_errno: error that ended the other one; 0 for none.
    """
    errors = []
    if end.error:
        errors.append(f"the {end.role} ended with {end.error}")
    elif not end.complete:
        errors.append("the connection was not closed in order")
    if other_errno:
        errors.append(f"the {end.role.opposite} ended with {errno.errorcode.get(other_errno, f'errno {other_errno}')}")
    if end.byte_count != other_bytes:
        ends = (end.byte_count, other_bytes)
        sent, received = ends if end.role is TcpRole.SOURCE else ends[::-1]
        errors.append(f"{sent} bytes sent, {received} received")
    elif end.crc32 != other_crc32:
        errors.append("the content was changed on the way")
    return tuple(errors)
