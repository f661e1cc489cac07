"""One end of a TCP connection that has to survive a live update: content hashed at both ends, stalls, retransmissions.

The other end is the guest's agent. A source sends at an even rate and closes its half; a sink reads until that. Both
hash what passes, so equal hashes prove that nothing was lost, doubled or changed; TCP_INFO (linux/tcp.h) tells how much
had to be sent again, and the longest time without progress is the interruption that a program would notice.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import hashlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from cprlib.deadline import Deadline
from cprlib.errors import EnvironmentFailure, UsageError

PIECE = 16384  # bytes sent or read at one go
TICK_MS = 10
CONNECT_S = 20.0
_RTT_OFFSET, _TOTAL_RETRANS_OFFSET, _INFO_SIZE = 68, 100, 104  # struct tcp_info


class TcpRole(enum.StrEnum):
    """A source sends, a sink receives."""

    SOURCE = "source"
    SINK = "sink"


@dataclass(frozen=True, slots=True)
class TcpEndpointSettings:
    """One end of a connection.

    :param address: to connect to; None: wait for one connection on ``port``.
    :param rate: bytes/s of a source, :param byte_count: after which it closes its half; 0 for "until finished".
    :raises UsageError: a number makes no sense.
    """

    role: TcpRole
    port: int
    address: str | None = None
    rate: int = 100_000
    byte_count: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise UsageError(f"use TCP port {self.port}", "not between 1 and 65535", "choose another")
        if self.rate <= 0 or self.byte_count < 0:
            raise UsageError(
                f"send {self.byte_count} bytes at {self.rate} bytes/s", "not above 0", "choose another rate or length"
            )


@dataclass(frozen=True, slots=True)
class TcpEndpointReport:
    """What one end saw.

    :param longest_stall_ns: longest time without progress, from the first byte to the last.
    :param retransmissions: segments that this end sent again, TCP_INFO tcpi_total_retrans.
    :param error: name of the error that ended the connection (``ECONNRESET``), empty for none.
    :param complete: the connection was closed in order by both ends.
    """

    role: TcpRole
    byte_count: int
    sha256: str
    longest_stall_ns: int
    retransmissions: int
    rtt_us: int
    error: str
    complete: bool


class TcpEndpoint:
    """Runs one end in a thread, as a context manager.

    Its socket belongs to the network namespace of the thread that makes this object.

    :raises EnvironmentFailure: the port is taken.
    """

    def __init__(self, settings: TcpEndpointSettings) -> None:
        self.settings = settings
        self._hash = hashlib.sha256()
        self._byte_count = self._stall_ns = self._progress_ns = 0
        self._info = bytes(_INFO_SIZE)
        self._error = ""
        self._complete = False
        self._finish = threading.Event()
        self._abort = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tcp-{settings.role}", daemon=True)
        try:
            self._opened = self._open()
        except OSError as error:
            raise EnvironmentFailure(
                f"use TCP port {settings.port}", error.strerror or str(error), "end what uses it, or choose another"
            ) from error

    def _open(self) -> socket.socket:
        address = self.settings.address
        opened = socket.socket(
            socket.AF_INET if address is not None and ":" not in address else socket.AF_INET6,
            socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        )
        try:
            if address is None:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 comes mapped
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.bind(("::", self.settings.port))
                opened.listen(1)
        except OSError:
            opened.close()
            raise
        return opened

    def __enter__(self) -> TcpEndpoint:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._abort.set()
        self._thread.join()
        self._opened.close()

    @property
    def byte_count(self) -> int:
        """Bytes sent or received so far."""
        return self._byte_count

    def finish(self, deadline: Deadline) -> TcpEndpointReport:
        """Let a source close its half, wait for the other end to close too, and report.

        A connection that is not closed when the time is up is reported as incomplete, not raised.
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
            sha256=self._hash.hexdigest(),
            longest_stall_ns=self._stall_ns,
            retransmissions=struct.unpack_from("=I", self._info, _TOTAL_RETRANS_OFFSET)[0],
            rtt_us=struct.unpack_from("=I", self._info, _RTT_OFFSET)[0],
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
                raise OSError(errno.ETIMEDOUT, "nothing came in time")

    def _progress(self, piece: bytes | memoryview) -> None:
        now = time.monotonic_ns()
        if self._byte_count:
            self._stall_ns = max(self._stall_ns, now - self._progress_ns)
        self._progress_ns = now
        self._byte_count += len(piece)
        self._hash.update(piece)

    def _send(self, connection: socket.socket) -> None:
        content = random.Random(self.settings.seed)  # noqa: S311 - content that is not all alike, no secret
        waiting = memoryview(b"")
        portion = max(1, self.settings.rate * TICK_MS // 1000)  # less is not worth a segment, nor a turn of this loop
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
            waiting = waiting or memoryview(content.randbytes(PIECE))
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
        while (piece := self._read(connection)) is not None:
            self._progress(piece)
        connection.shutdown(socket.SHUT_WR)
        self._complete = True

    def _read(self, connection: socket.socket) -> bytes | None:
        """The next bytes; None when the other end has closed."""
        while True:
            try:
                return connection.recv(PIECE) or None
            except BlockingIOError:
                self._wait(connection, select.POLLIN)


def content_doubts(end: TcpEndpointReport, other_bytes: int, other_sha256: str) -> tuple[str, ...]:
    """What is wrong with a connection; empty when everything came over unchanged and it was closed in order.

    :param end: the report of one end, be it source or sink; :param other_bytes: of content at the other one.
    """
    doubts = []
    if end.error:
        doubts.append(f"the {end.role} ended with {end.error}")
    elif not end.complete:
        doubts.append("the connection was not closed in order")
    if end.byte_count != other_bytes:
        ends = (end.byte_count, other_bytes)
        sent, received = ends if end.role is TcpRole.SOURCE else ends[::-1]
        doubts.append(f"{sent} bytes sent, {received} received")
    elif end.sha256 != other_sha256:
        doubts.append("the content was changed on the way")
    return tuple(doubts)
