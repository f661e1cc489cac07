"""Requests and answers over the agent's virtio-serial port.

::

    request   \\n <id> <command> [<key>=<value> ...] \\n
    answer    \\n {"id":"<id>","ok":true,...,"payload":N,"crc32":C} \\n  <N bytes>

Bytes may be lost in both directions when a live update takes the channel from one QEMU to the next; therefore each
answer names its request, anything else is skipped, and a request that may be repeated is.
"""

from __future__ import annotations

import itertools
import json
import secrets
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, GuestFailed, InstrumentError
from cprlib.guest.replies import Reply

LINE_LIMIT = 1 << 20  # bytes of an answer's line; PORT_ANSWER in images/guest/agent/port.h
SKIP_LIMIT = 64 << 20  # bytes that are no answer, until the guest is called broken
ADVICE = "look at the guest's console; was the guest image built for this cprlib?"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's JSON and the bytes behind it."""

    reply: Reply
    payload: bytes


class AgentChannel:
    """Our end of the port, whichever QEMU it currently leads through.

    :param connection: a connected stream socket to QEMU's chardev; stays the caller's to close.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def use(self, connection: socket.socket) -> None:
        """Go on through another QEMU, after a live update. Half an answer of the one before is forgotten."""
        self._connection = connection
        self._received.clear()

    def request(
        self,
        command: str,
        parameters: Mapping[str, str | int] | None = None,
        *,
        seconds: float = 10.0,
        repeat_after: float | None = None,
    ) -> Answer:
        """Ask, and wait for the answer.

        :param parameters: the request's keys and values, without spaces in them.
        :param seconds: deadline for all attempts, scaled.
        :param repeat_after: seconds after which the request is sent anew, when it may be carried out twice.
        :raises GuestFailed: the agent refused, or the channel broke.
        :raises DeadlineExceeded: no answer.
        :raises InstrumentError: an answer that makes no sense.
        """
        deadline = Deadline(seconds, f"the guest agent's answer to {command}")
        while True:
            attempt = deadline if repeat_after is None else Deadline(repeat_after, deadline.purpose)
            try:
                return self._attempt(command, parameters or {}, attempt)
            except DeadlineExceeded:
                if deadline.expired or repeat_after is None:
                    raise deadline.exceeded(advice=ADVICE) from None

    def _attempt(self, command: str, parameters: Mapping[str, str | int], deadline: Deadline) -> Answer:
        identifier = f"{self._token}-{next(self._numbers)}"
        words = [identifier, command, *(f"{key}={value}" for key, value in parameters.items())]
        self._send(f"\n{' '.join(words)}\n".encode("ascii", "replace"), command, deadline)
        members = self._read_answer(f'{{"id":"{identifier}"'.encode(), command, deadline)
        reply = Reply(members, command)
        if not reply.flag("ok"):
            raise GuestFailed(f"have the guest {command}", reply.text("error"))
        length = reply.number("payload")
        if not 0 <= length <= LINE_LIMIT:
            raise reply.invalid("payload")
        payload = self._read(length, command, deadline)
        if length and zlib.crc32(payload) != reply.number("crc32"):
            raise InstrumentError(f"read the guest agent's answer to {command}", "its bytes have another checksum")
        return Answer(reply, payload)

    def _read_answer(self, prefix: bytes, command: str, deadline: Deadline) -> dict[str, object]:
        skipped = 0
        while True:
            line = self._read_line(command, deadline)
            if line.startswith(prefix):
                break
            skipped += len(line) + 1
            if skipped > SKIP_LIMIT:
                raise InstrumentError(f"read the guest agent's answer to {command}", f"{skipped} bytes are no answer")
        try:
            members = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InstrumentError(f"read the guest agent's answer to {command}", str(error)) from error
        if not isinstance(members, dict):
            raise InstrumentError(f"read the guest agent's answer to {command}", "it is no object")
        return members

    def _read_line(self, command: str, deadline: Deadline) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > LINE_LIMIT:  # bytes of a broken answer; the end of the line will come
                self._received.clear()
                return b"?" * LINE_LIMIT
            self._fill(command, deadline)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _read(self, length: int, command: str, deadline: Deadline) -> bytes:
        while len(self._received) < length:
            self._fill(command, deadline)
        data = bytes(self._received[:length])
        del self._received[:length]
        return data

    def _fill(self, command: str, deadline: Deadline) -> None:
        try:
            self._connection.settimeout(max(deadline.remaining, 0.001))
            data = self._connection.recv(1 << 18)
        except TimeoutError:
            raise deadline.exceeded(advice=ADVICE) from None
        except OSError as error:
            raise GuestFailed(f"ask the guest agent to {command}", f"its channel broke: {error}", ADVICE) from error
        if not data:
            raise GuestFailed(f"ask the guest agent to {command}", "its channel was closed: QEMU has ended", ADVICE)
        self._received += data

    def _send(self, data: bytes, command: str, deadline: Deadline) -> None:
        try:
            self._connection.settimeout(max(deadline.remaining, 0.001))
            self._connection.sendall(data)
        except TimeoutError:
            raise deadline.exceeded(advice=ADVICE) from None
        except OSError as error:
            raise GuestFailed(f"ask the guest agent to {command}", f"its channel broke: {error}", ADVICE) from error
