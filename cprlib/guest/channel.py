"""Requests and answers over the agent's virtio-serial port.

::

    request   \\n <id> <command> [<key>=<value> ...] \\n
    answer    \\n {"id":"<id>","ok":true,...,"payload":N,"crc32":C} \\n  <N bytes>

A live update moves the channel from one QEMU to the next, and bytes may be lost in both directions. Therefore an
answer names its request, all other bytes are skipped, and an idempotent request is repeated. A repetition has the same
id: a guest on a busy machine may answer later than that.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cprlib.codec import BadValue, load_json
from cprlib.deadline import Deadline
from cprlib.errors import Awaited, GuestFailed, InstrumentError
from cprlib.guest.replies import Reply, invalid_answer

AGENT_ANSWER_S = 30.0  # a living guest on a machine with ten runnable threads per core took more than 10 s
LINE_LIMIT = 1 << 20  # bytes of an answer's line; PORT_ANSWER in images/guest/agent/port.h
SKIP_LIMIT = 64 << 20  # bytes that are not part of an answer, before the request fails
DAMAGED_ANSWERS = 3  # to an idempotent request, before it fails
ADVICE = "look at the end of the guest's console, which shows its blocked tasks; was its image built for this cprlib?"


@dataclass(slots=True)
class _Request:
    """A request that waits for its answer.

    :param pause_s: until it is sent again, scaled; infinite for one that is sent once.
    :param again: the end of this pause, at most the deadline.
    """

    command: str
    identifier: str
    line: bytes
    deadline: Deadline
    pause_s: float
    again: Deadline


class AgentChannel:
    """Our end of the port, through the QEMU that currently runs the guest.

    :param connection: a connected stream socket to QEMU's chardev; the caller closes it.
    :param when_silent: called when a request was not answered, before it fails.
    """

    def __init__(self, connection: socket.socket, when_silent: Callable[[], None] = lambda: None) -> None:
        self._connection = connection
        self._when_silent = when_silent
        self._received = bytearray()
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def use(self, connection: socket.socket) -> None:
        """Switch to another QEMU, after a live update; an incomplete answer is dropped."""
        self._connection = connection
        self._received.clear()

    def request(
        self,
        command: str,
        parameters: Mapping[str, str | int] | None = None,
        *,
        seconds: float = AGENT_ANSWER_S,
        repeat_after: float | None = None,
    ) -> Reply:
        """Send a request and wait for its answer.

        :param parameters: the request's keys and values, without spaces.
        :param seconds: deadline for all attempts, scaled.
        :param repeat_after: for an idempotent request: seconds after which it is sent again, doubled each time; it is
            also sent again after a damaged answer.
        :raises GuestFailed: the agent refused, or the channel was closed.
        :raises DeadlineExceeded: no answer.
        :raises InstrumentError: an invalid answer.
        """
        deadline = Deadline(seconds, f"the guest agent's answer to {command}", Awaited.GUEST)
        identifier = f"{self._token}-{next(self._numbers)}"
        words = [identifier, command, *(f"{key}={value}" for key, value in (parameters or {}).items())]
        line = f"\n{' '.join(words)}\n".encode("ascii", "replace")
        request = _Request(command, identifier, line, deadline, repeat_after or math.inf, deadline)
        damaged = 0
        while True:
            self._send(request)
            try:
                return self._answer(request)
            except InstrumentError:
                damaged += 1
                if repeat_after is None or damaged > DAMAGED_ANSWERS:
                    raise

    def _send(self, request: _Request) -> None:
        pause = Deadline(request.pause_s, request.deadline.purpose, request.deadline.awaited)
        request.again = min(request.deadline, pause, key=lambda item: item.remaining)
        request.pause_s *= 2  # a busy guest would be busier still
        with self._failures(request):
            self._connection.sendall(request.line)

    def _answer(self, request: _Request) -> Reply:
        reply = Reply(self._read_members(request), request.command)
        if not reply.flag("ok"):
            raise GuestFailed(f"have the guest {request.command}", reply.text("error"))
        length = reply.number("payload")
        if not 0 <= length <= LINE_LIMIT:
            raise reply.invalid("payload")
        payload = self._read(length, request)
        if length and zlib.crc32(payload) != reply.number("crc32"):
            raise invalid_answer(request.command, "its checksum is wrong")
        return replace(reply, payload=payload)

    def _read_members(self, request: _Request) -> dict[str, Any]:
        prefix = f'{{"id":"{request.identifier}"'.encode()
        skipped = 0
        while not (line := self._read_line(request)).startswith(prefix):
            skipped += len(line) + 1
            if skipped > SKIP_LIMIT:
                raise invalid_answer(request.command, f"{skipped} bytes are not an answer")
        try:
            return load_json(dict[str, Any], line)
        except BadValue as error:
            raise invalid_answer(request.command, str(error)) from error

    def _read_line(self, request: _Request) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > LINE_LIMIT:  # part of a damaged answer; its end will follow
                self._received.clear()
                return b"?" * LINE_LIMIT
            self._receive(request)
        return self._take(end + 1)[:-1]

    def _read(self, length: int, request: _Request) -> bytes:
        while len(self._received) < length:
            self._receive(request)
        return self._take(length)

    def _take(self, length: int) -> bytes:
        content = bytes(self._received[:length])
        del self._received[:length]
        return content

    def _receive(self, request: _Request) -> None:
        """Receive some bytes, or send the request again when it is time."""
        with self._failures(request):
            if request.deadline.expired:  # also of a guest that never stops sending
                raise TimeoutError
            if request.again.expired:
                self._send(request)
            self._connection.settimeout(max(request.again.remaining, 0.001))
            try:
                content = self._connection.recv(1 << 18)
            except TimeoutError:
                return
        if not content:
            tried = f"ask the guest agent to {request.command}"
            raise GuestFailed(tried, "its channel was closed: QEMU has ended", ADVICE)
        self._received += content

    @contextlib.contextmanager
    def _failures(self, request: _Request) -> Iterator[None]:
        """Run one operation of the socket until the deadline, with our errors."""
        try:
            self._connection.settimeout(max(request.deadline.remaining, 0.001))
            yield
        except TimeoutError:
            self._when_silent()
            raise request.deadline.exceeded(advice=ADVICE) from None
        except OSError as error:
            tried = f"ask the guest agent to {request.command}"
            raise GuestFailed(tried, f"its channel broke: {error}", ADVICE) from error
