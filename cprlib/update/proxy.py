"""A proxy on a migration channel, which can stop an update at a defined byte.

It has no name in the file system, so a killed harness leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import enum
import os
import secrets
import select
import socket
import threading
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.linux.descriptors import Descriptor, read_table
from cprlib.linux.namespace import NetworkNamespace

SCM_MAX_FD = 253  # include/net/scm.h
MESSAGE_BYTES = 65536  # read at once
TICK_S = 0.05  # delay until the proxy's thread notices the end of the body


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes as they were read from a channel, and the descriptors that came with them."""

    data: bytes
    descriptors: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors: a copy of a tap's descriptor would keep its queue alive."""
        for number in self.descriptors:
            os.close(number)


def receive(connection: socket.socket) -> Message:
    """Read available bytes and descriptors; no bytes at the end of the stream."""
    data, numbers, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, SCM_MAX_FD, socket.MSG_CMSG_CLOEXEC)
    return Message(data, tuple(numbers))


def send(connection: socket.socket, message: Message) -> None:
    """Write a message; its descriptors go with its first byte."""
    sent = socket.send_fds(connection, [message.data], message.descriptors)
    connection.sendall(message.data[sent:])


class Hold(enum.Enum):
    """Where a proxy holds."""

    BEFORE_ACCEPT = "before accept"
    """The source's connect(2) waits. Once released, the proxy reads to the end of the stream before it relays."""
    WHEN_CONNECTED = "when connected"
    AT_END = "at end"
    """At the end of the source's stream."""


class ChannelProxy:
    """A proxy on a migration channel that can hold, inspect, change and release its messages; a context manager.

    The source connects to :attr:`name`, the proxy to the target. It relays bytes and descriptors.

    :param namespace: network namespace of both QEMUs, in which the abstract names live.
    :param target: the target's own name of the channel; not used by a proxy that is never released.
    :param hold: where the proxy holds until :meth:`release`; a number for that many bytes from the source.
    :param forward_held: the target gets at once what the proxy reads before it holds; else nothing before the release.
    :param outlive_source: deliver what the source has sent even if the source has closed the channel meanwhile, as a
        socket does.
    :param unlimited: until the release the source never waits for room in the channel.
    :param record: keep what the source sends after the release, in :attr:`recorded`.
    :param hold_answers: never relay what the target sends.
    """

    def __init__(
        self,
        namespace: NetworkNamespace,
        target: str = "",
        hold: Hold | int = Hold.AT_END,
        *,
        forward_held: bool = False,
        outlive_source: bool = False,
        unlimited: bool = False,
        record: bool = False,
        hold_answers: bool = False,
    ) -> None:
        self.name = f"cprlib-{secrets.token_hex(8)}-proxy"
        self.byte_count = 0  # read from the source so far
        self.descriptors = 0
        self._namespace = namespace
        self._target_name = target
        self._hold = hold
        self._forward_held = forward_held
        self._outlive_source = outlive_source
        self._unlimited = unlimited
        self._record = record
        self._hold_answers = hold_answers
        self.recorded = bytearray()
        self._messages: list[Message] = []
        self._end_after = False
        self._held = threading.Event()
        self._released = threading.Event()
        self._end = threading.Event()

    def __enter__(self) -> ChannelProxy:
        refuse = self._hold is Hold.BEFORE_ACCEPT
        self._source: socket.socket | None = None
        with contextlib.ExitStack() as stack:
            with self._namespace.entered():
                self._listener, self._target, self._filler = (
                    stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
                    for _ in range(3)
                )
            self._listener.bind(f"\0{self.name}")
            self._listener.listen(0 if refuse else 1)
            if refuse:  # a pending connection fills a backlog of 0 (unix_recvq_full(), net/unix/af_unix.c)
                self._filler.connect(f"\0{self.name}")
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def wait_held(self, deadline: Deadline) -> None:
        """Wait until the proxy holds.

        :raises DeadlineExceeded: the source has not come that far.
        """
        if not self._held.wait(deadline.remaining):
            raise deadline.exceeded(f"the proxy has read {self.byte_count} bytes and {self.descriptors} descriptors")

    @property
    def held(self) -> bool:
        """Whether the proxy holds, or has held."""
        return self._held.is_set()

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(self._messages)

    def held_descriptors(self) -> tuple[Descriptor, ...]:
        """The held descriptors, as rows of this process's table."""
        numbers = {number for message in self._messages for number in message.descriptors}
        return tuple(row for row in read_table(os.getpid()).rows if row.number in numbers)

    def release(self) -> None:
        self._released.set()

    def cut(self) -> None:
        """Close the channel to both sides and drop the held messages."""
        self._end.set()
        self._released.set()
        self._thread.join(timeout=10)
        self._close(self._source, self._target, self._listener, self._filler)
        self._drop_messages()

    def replace(self, data: bytes) -> None:
        """Send the target these bytes and an end of stream instead of the held messages.

        The source sees the channel closed once the target has closed it.
        """
        self._drop_messages()
        self._release_last(Message(data))

    def truncate(self, length: int, *, descriptors: bool = True) -> None:
        """Send the target the first bytes of the held messages and an end of stream.

        :param descriptors: whether their descriptors are sent as well.
        """
        kept: list[Message] = []
        for message in self._messages:
            if length <= 0 or (message.descriptors and not descriptors):
                message.close()
                kept += [Message(message.data[:length])] if length > 0 else []
            else:
                kept.append(Message(message.data[:length], message.descriptors))
            length -= len(message.data)
        self._release_last(*kept)

    def _release_last(self, *messages: Message) -> None:
        self._messages = list(messages)
        self._end_after = True
        self._released.set()

    def _drop_messages(self) -> None:
        for message in self._messages:
            message.close()
        self._messages = []

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # one side has closed: the test looks at the QEMUs themselves
            self._relay()
        self._close(self._source, self._target)
        if self._released.is_set():  # a target that has died got no message
            self._drop_messages()

    @staticmethod
    def _close(*connections: socket.socket | None) -> None:
        for connection in connections:
            if connection is not None:
                connection.close()

    def _relay(self) -> None:
        if self._hold is Hold.BEFORE_ACCEPT:
            self._released.wait()
            if self._end.is_set():
                return
            self._listener.accept()[0].close()  # the filler
        if not self._readable(self._listener):
            return
        source, target = self._listener.accept()[0], self._target
        self._source = source
        self._listener.close()
        if self._forward_held:
            target.connect(_address(self._target_name))
        ended = self._collect(source)
        if self._forward_held:
            self._flush(target)
        self._held.set()
        if self._unlimited:
            ended = self._read_on(source, ended=ended)
        if not self._wait_released(source):
            return
        if not self._forward_held:
            target.connect(_address(self._target_name))
        self._flush(target)
        if ended or self._end_after:
            target.shutdown(socket.SHUT_WR)
            self._wait_closed(source, target)
            return
        self._relay_both_ways(source, target)

    def _readable(self, *connections: socket.socket) -> list[socket.socket]:
        """The connections with something to read; none at the end of the body."""
        while not self._end.is_set():
            ready, _, _ = select.select(connections, [], [], TICK_S)
            if ready:
                return list(ready)
        return []

    def _collect(self, source: socket.socket) -> bool:
        """Read from the source until the proxy has to hold.

        :returns: whether the source's stream has ended.
        """
        limit = 0 if self._hold is Hold.WHEN_CONNECTED else self._hold
        while isinstance(limit, Hold) or self.byte_count < limit:
            if not self._readable(source):
                return False
            message = receive(source)
            if not message.data:
                return True
            self._keep(message)
        return False

    def _read_on(self, source: socket.socket, *, ended: bool) -> bool:
        """Keep what the source sends until the release; returns whether its stream has ended."""
        while not (ended or self._released.is_set()):
            if select.select([source], [], [], TICK_S)[0]:
                message = receive(source)
                ended = not message.data
                self._keep(message)
        return ended

    def _keep(self, message: Message) -> None:
        if message.data:
            self.byte_count += len(message.data)
            self.descriptors += len(message.descriptors)
            self._messages.append(message)

    def _flush(self, target: socket.socket) -> None:
        for message in self._messages:
            send(target, message)
        self._drop_messages()

    def _wait_released(self, source: socket.socket) -> bool:
        """Wait for :meth:`release`; False when the channel has ended instead."""
        while not self._released.wait(TICK_S):
            if self._source_gone(source):
                return False
        return not self._end.is_set()

    def _source_gone(self, source: socket.socket) -> bool:
        """Whether the source has hung up and that ends the channel."""
        state = select.poll()
        state.register(source, 0)  # POLLHUP: both directions are closed
        return not self._outlive_source and bool(state.poll(0))

    def _wait_closed(self, source: socket.socket, target: socket.socket) -> None:
        """Wait until the target or the source closes the channel."""
        while not self._end.is_set():
            ready, _, _ = select.select([target], [], [], TICK_S)
            if (ready and not target.recv(MESSAGE_BYTES)) or self._source_gone(source):
                return

    def _relay_both_ways(self, source: socket.socket, target: socket.socket) -> None:
        other = {source: target} if self._hold_answers else {source: target, target: source}
        while ready := self._readable(*other):
            for connection in ready:
                message = receive(connection)
                if not message.data:
                    if connection is source:
                        target.shutdown(socket.SHUT_WR)
                        self._wait_closed(source, target)
                    return
                if connection is source:
                    self.byte_count += len(message.data)
                    if self._record:
                        self.recorded += message.data
                try:
                    send(other[connection], message)
                except ConnectionError:
                    if connection is source:  # the target has hung up; the source gets what it has sent before
                        other = {target: source}
                    elif not self._outlive_source:  # a source that has hung up reads nothing more
                        raise
                finally:
                    message.close()


def _address(name: str) -> str:
    """Address of an abstract unix socket, or of one with a path."""
    return name if name.startswith("/") else f"\0{name}"
