"""A gate in the way of an update: on one migration channel it can be stopped, looked at, spoilt and let go.

It stands between source and target and relays bytes and descriptors. It has no name in the file system, so a killed
harness leaves nothing behind.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import threading
from types import TracebackType

from cprlib.deadline import Deadline
from cprlib.linux.descriptors import Descriptor, read_table
from cprlib.linux.namespace import NetworkNamespace
from cprlib.update.channel_piece import PIECE, Piece, receive, send

TICK_S = 0.05  # how long the relay may take to notice that it shall end


class ChannelGate:
    """A relay on a channel, as a context manager: the source connects to :attr:`name`, the relay to the target.

    :param namespace: network namespace of both QEMUs, in which the abstract names live.
    :param forward: the target's own name of the channel.
    :param hold_after: bytes from the source after which it closes: 0 for "when the source has connected", None for
        "when the source has sent all it has to say".
    :param pass_on: the target gets those bytes at once; else it sees nothing before the gate opens.
    :param delivers: what the source has sent comes to the target even when the source has hung up since, as it would
        from a socket's queue.
    :param refuse: the source is not let in before the gate opens: its connect(2) waits.
    """

    def __init__(
        self,
        namespace: NetworkNamespace,
        forward: str,
        hold_after: int | None,
        *,
        pass_on: bool = False,
        delivers: bool = False,
        refuse: bool = False,
    ) -> None:
        self.name = f"cprlib-{secrets.token_hex(8)}-gate"
        self.byte_count = 0  # seen from the source so far
        self.descriptors = 0
        self._namespace = namespace
        self._forward = forward
        self._hold_after = hold_after
        self._pass_on = pass_on
        self._delivers = delivers
        self._refuse = refuse
        self._pieces: list[Piece] = []
        self._end_after = False
        self._held = threading.Event()
        self._open = threading.Event()
        self._end = threading.Event()
        self._failure: Exception | None = None

    def __enter__(self) -> ChannelGate:
        with self._namespace.entered():
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._onward = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._filler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(f"\0{self.name}")
        self._listener.listen(0 if self._refuse else 1)
        self._source: socket.socket | None = None
        if self._refuse:  # one that waits to be accepted fills a backlog of 0 (unix_recvq_full(), net/unix/af_unix.c)
            self._filler.connect(f"\0{self.name}")
        self._thread = threading.Thread(target=self._run, name=f"gate-{self.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish()

    def wait_held(self, deadline: Deadline) -> None:
        """Wait until something stands before the closed gate.

        :raises DeadlineExceeded: nothing came.
        """
        if not self._held.wait(deadline.remaining):
            raise deadline.exceeded(f"the gate saw {self.byte_count} bytes and {self.descriptors} descriptors")

    @property
    def held(self) -> bool:
        """Whether something has come to the gate."""
        return self._held.is_set()

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What stands before the closed gate, as it came."""
        return tuple(self._pieces)

    def standing(self) -> tuple[Descriptor, ...]:
        """The descriptors that stand before the gate, as this process's table shows them."""
        numbers = {number for piece in self._pieces for number in piece.descriptors}
        return tuple(row for row in read_table(os.getpid()).rows if row.number in numbers)

    def release(self) -> None:
        """Open the gate: everything goes on as if it were not there."""
        self._open.set()

    def cut(self) -> None:
        """Close the channel to both sides, with what stands before the gate."""
        self._finish()

    def replace(self, data: bytes) -> None:
        """Let the target have these bytes and an end of the stream instead of what stands before the gate.

        The source sees the channel closed once the target has closed it.
        """
        self._drop_pieces()
        self._pieces = [Piece(data)]
        self._open.set()

    def truncate(self, byte_count: int, *, descriptors: bool = True) -> None:
        """Let the target have the first bytes of what stands before the gate, and then an end of the stream."""
        kept: list[Piece] = []
        for piece in self._pieces:
            if byte_count <= 0 or (piece.descriptors and not descriptors):
                piece.close()
                kept += [Piece(piece.data[:byte_count])] if byte_count > 0 else []
            else:
                kept.append(Piece(piece.data[:byte_count], piece.descriptors))
            byte_count -= len(piece.data)
        self._pieces = kept
        self._end_after = True
        self._open.set()

    def _drop_pieces(self) -> None:
        for piece in self._pieces:
            piece.close()
        self._pieces = []
        self._end_after = True

    def _finish(self) -> None:
        self._end.set()
        self._open.set()
        self._thread.join(timeout=10)
        for connection in (self._source, self._onward, self._listener, self._filler):
            if connection is not None:
                connection.close()
        for piece in self._pieces:
            piece.close()
        self._pieces = []

    def _run(self) -> None:
        try:
            self._relay()
        except OSError as error:  # a side that went away: the test looks at the QEMUs themselves
            self._failure = error
        for connection in (self._source, self._onward):
            if connection is not None:
                connection.close()

    def _readable(self, *connections: socket.socket) -> list[socket.socket]:
        """Those with something to read; none when the relay shall end."""
        while not self._end.is_set():
            ready, _, _ = select.select(connections, [], [], TICK_S)
            if ready:
                return list(ready)
        return []

    def _relay(self) -> None:
        if self._refuse:
            self._open.wait()
            if self._end.is_set():
                return
            self._listener.accept()[0].close()  # the filler
        if not self._readable(self._listener):
            return
        source, _ = self._listener.accept()
        self._source = source
        self._listener.close()
        onward = self._onward
        if self._pass_on:
            onward.connect(f"\0{self._forward}")
        ended = self._collect(source)
        if self._pass_on:
            self._flush(onward)
        self._held.set()
        if not self._wait_open(source):
            return
        if not self._pass_on:
            onward.connect(f"\0{self._forward}")
        self._flush(onward)
        if ended or self._end_after:
            onward.shutdown(socket.SHUT_WR)
            self._until_closed(onward, source)
            return
        self._both_ways(source, onward)

    def _send_on(self, connection: socket.socket, piece: Piece) -> None:
        """Pass a piece on; a gate that delivers is not ended by a source that has hung up and hears nothing more."""
        try:
            send(connection, piece)
        except BrokenPipeError:
            if not self._delivers or connection is not self._source:
                raise

    def _flush(self, onward: socket.socket) -> None:
        """Let the target have what stands before the gate."""
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            send(onward, piece)
            piece.close()

    def _collect(self, source: socket.socket) -> bool:
        """Read up to the gate.

        :returns: whether the source has said that it is done.
        """
        while self._hold_after is None or self.byte_count < self._hold_after:
            if not self._readable(source):
                return False
            piece = receive(source)
            if not piece.data:
                return True
            self.byte_count += len(piece.data)
            self.descriptors += len(piece.descriptors)
            self._pieces.append(piece)
        return False

    def _wait_open(self, source: socket.socket) -> bool:
        """Wait for the gate to open; a source that hangs up meanwhile ends it all, unless the gate delivers."""
        while not self._open.wait(TICK_S):
            if self._gone(source):
                return False
        return not self._end.is_set()

    def _gone(self, source: socket.socket) -> bool:
        """Whether the source's hanging up ends it all."""
        state = select.poll()
        state.register(source, 0)  # POLLHUP: both directions are closed
        return not self._delivers and bool(state.poll(0))

    def _until_closed(self, onward: socket.socket, source: socket.socket) -> None:
        """Wait until the target, or the source, closes the channel."""
        while not self._end.is_set():
            ready, _, _ = select.select([onward], [], [], TICK_S)
            if (ready and not onward.recv(PIECE)) or self._gone(source):
                return

    def _both_ways(self, source: socket.socket, onward: socket.socket) -> None:
        other = {source: onward, onward: source}
        while ready := self._readable(*other):
            for connection in ready:
                piece = receive(connection)
                if not piece.data:
                    if connection is onward:
                        return
                    onward.shutdown(socket.SHUT_WR)
                    self._until_closed(onward, source)
                    return
                if connection is source:
                    self.byte_count += len(piece.data)
                self._send_on(other[connection], piece)
                piece.close()
