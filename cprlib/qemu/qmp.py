"""A synchronous QMP connection: qemu.qmp on an event loop in its own thread.

The connection is one end of a socket pair; QEMU inherits the other end. So no socket has a name, and a QEMU that does
not serve QMP yet (a target that waits for its CPR state) replies as soon as it does. Messages go to a transcript, one
JSON object per line: ``time_ns``, ``direction`` (``sent``, ``received``, ``event``, and ``note`` for one of this
module itself) and ``message``. Of the commands of :meth:`QmpConnection.execute_all` it has the number.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import EventListener, QMPClient, QMPError, Runstate
from qemu.qmp.message import Message

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, QemuFailed, QmpRefused

CONNECTION_ERRORS = (QMPError, OSError, EOFError, ValueError)  # ValueError: qemu.qmp raises it for invalid UTF-8
REPLY_S = 20.0
MAX_EVENTS = 20_000  # a live update has a few dozen
TRANSCRIPT_LIMIT = 32 << 20  # bytes

Value = TypeVar("Value")
Arguments = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """A QMP event.

    :param time_ns: QEMU's time stamp, with a resolution of 1 µs.
    :param received_ns: time of arrival.
    """

    name: str
    data: Mapping[str, Any]
    time_ns: int
    received_ns: int


class _Client(QMPClient):
    """QMPClient for many commands at once, and without its log, for which it would format every message.

    :param greeted: called when its server greets again: a QEMU that was executed in the place of another.
    """

    def __init__(self, name: str, greeted: Callable[[], None]) -> None:
        super().__init__(name)
        self._greeted = greeted

    async def _on_message(self, msg: Message) -> None:
        if "QMP" in msg:
            self._greeted()
        else:
            await super()._on_message(msg)

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    async def execute_many(self, messages: Sequence[Message]) -> list[Message]:
        """Send messages, then wait for the replies, without a task for each.

        :returns: the replies in the order of the messages.
        :raises EOFError: the connection is closed; a reply would never come.
        """
        if self.runstate is not Runstate.RUNNING:
            raise EOFError("QEMU closed it")
        names = []
        try:
            for message in messages:
                message["id"] = self._get_exec_id()
                names.append(await self._issue(message))
            return [await self._reply(name) for name in names]
        finally:
            for name in names:
                self._pending.pop(name, None)


def _message(command: str, arguments: Arguments | None) -> Message:
    return QMPClient.make_execute_msg(command, dict(arguments) if arguments else None)


def parse_event(message: Mapping[str, Any], received_ns: int) -> QmpEvent:
    """Parse the message of an event (QEMU docs/interop/qmp-spec.rst, "Asynchronous events")."""
    stamp = message.get("timestamp", {})
    time_ns = int(stamp.get("seconds", -1)) * 10**9 + int(stamp.get("microseconds", 0)) * 1000
    return QmpEvent(str(message["event"]), dict(message.get("data", {})), time_ns, received_ns)


class QmpConnection:
    """A QMP session with one QEMU, as a context manager.

    :param name: ``source`` or ``target``, for messages.
    :param channel: our end of the socket pair; the connection closes it.
    :param transcript: file that the transcript is appended to.
    """

    def __init__(self, name: str, channel: socket.socket, transcript: Path) -> None:
        self.name = name
        self._channel = channel
        self._transcript_path = transcript
        self._events: list[QmpEvent] = []
        self._changed = threading.Condition()
        self._flood = False
        self._ended = False  # and all events before the end are in _events
        self._watchers: list[asyncio.Future[None]] = []
        self._closing: asyncio.Future[None] | None = None
        self._written = 0
        self._loop = asyncio.new_event_loop()
        self._greetings = 0  # after the first one
        self._client = _Client(name, self._note_greeting)
        self._client.negotiate = False  # qemu.qmp fails on an event before the reply to qmp_capabilities: see _connect
        self._connecting: asyncio.Task[None] | None = None

    def __enter__(self) -> QmpConnection:
        self._transcript = self._transcript_path.open("a", encoding="utf-8", buffering=1)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"qmp-{self.name}", daemon=True)
        self._thread.start()
        self._negotiated = self._submit(self._connect())
        return self

    def __exit__(self, *_: object) -> None:
        closing = self._submit(self._close())
        # Errors do not matter: the process is killed next.
        with contextlib.suppress(FutureTimeout, *CONNECTION_ERRORS):
            closing.result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._loop.close()
        self._transcript.close()

    async def _connect(self) -> None:
        self._connecting = asyncio.current_task()
        listener = EventListener()  # before connecting: an event may follow the greeting immediately
        self._client.register_listener(listener)
        self._watchers.append(asyncio.ensure_future(self._watch(listener)))
        try:
            await self._client.connect(self._channel)
        except AssertionError as error:  # in qemu.qmp: its reader met the end of the stream before connect() returned
            raise EOFError("it closed the connection after its greeting") from error
        self._watchers.append(asyncio.ensure_future(self._watch_end(listener)))
        # QEMU runs the command in a bottom half and replies when its dispatcher runs again (qapi/qmp-dispatch.c), but
        # sends events as soon as the command has run: RESUME may come before the reply.
        await self._client.execute_msg(QMPClient.make_execute_msg("qmp_capabilities", self._capabilities))

    def _note_greeting(self) -> None:
        self._write("received", {"QMP": "another greeting"})
        with self._changed:
            self._greetings += 1
            self._changed.notify_all()

    @property
    def greetings(self) -> int:
        """How often QEMU has greeted after the first time."""
        with self._changed:
            return self._greetings

    def negotiate_again(self) -> None:
        """Negotiate with a QEMU that was executed in the place of the one before, and has greeted."""
        self.execute("qmp_capabilities", self._capabilities)

    @property
    def _capabilities(self) -> Arguments | None:
        greeting = self._client.greeting
        return {"enable": ["oob"]} if greeting is not None and "oob" in greeting.QMP.capabilities else None

    async def _close(self) -> None:
        """Cancel the greeting first: qemu.qmp does not support two concurrent disconnects."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
            for watcher in self._watchers:
                watcher.cancel()
        await (self._closing or self._client.disconnect())

    async def _watch(self, listener: EventListener) -> None:
        async for message in listener:
            event = parse_event(message, time.time_ns())
            self._write("event", message)
            with self._changed:
                self._events.append(event)
                self._flood = len(self._events) >= MAX_EVENTS
                self._changed.notify_all()
            if self._flood:
                self._write("note", {"flood": f"{MAX_EVENTS} events: the connection is closed"})
                self._closing = asyncio.ensure_future(self._client.disconnect())
                return

    async def _watch_end(self, listener: EventListener) -> None:
        """Note the end of the connection, which ends no listener of qemu.qmp."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        while not listener.empty() and not self._watchers[0].done():  # until _watch has stored the last events
            await asyncio.sleep(0)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _submit(self, work: Coroutine[Any, Any, Value]) -> Future[Value]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _write(self, direction: str, message: Message | Mapping[str, object]) -> None:
        line = json.dumps({"time_ns": time.time_ns(), "direction": direction, "message": dict(message)})
        if self._transcript.closed or self._written > TRANSCRIPT_LIMIT:
            return
        self._written += len(line)
        if self._written > TRANSCRIPT_LIMIT:
            line = json.dumps({"time_ns": time.time_ns(), "direction": "note", "message": {"cut": "too long"}})
        self._transcript.write(line + "\n")

    def _check_flood(self, tried: str) -> None:
        if self._flood:
            raise QemuFailed(tried, f"it sent {MAX_EVENTS} events, far more than an update has", "read the transcript")

    @property
    def is_ready(self) -> bool:
        """Whether QEMU has greeted and the connection was not refused."""
        return self._negotiated.done() and not self._negotiated.cancelled() and self._negotiated.exception() is None

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait for the greeting and the negotiation of capabilities.

        :raises QemuFailed: the connection broke before that.
        :raises DeadlineExceeded: no greeting in time.
        """
        self._check_flood(f"talk QMP to the {self.name}")
        try:
            deadline.result_of(self._negotiated)
        except FutureTimeout as error:
            raise deadline.exceeded("no QMP greeting") from error
        except CONNECTION_ERRORS as error:
            raise QemuFailed(f"talk QMP to the {self.name}", str(error) or type(error).__name__) from error

    def execute(self, command: str, arguments: Arguments | None = None, *, seconds: float = REPLY_S) -> Any:
        """Run a QMP command.

        :returns: its return value.
        :raises QmpRefused: QEMU replied with an error.
        :raises QemuFailed: the connection broke.
        :raises DeadlineExceeded: no reply in time.
        """
        deadline = Deadline(seconds, f"the {self.name}'s reply to {command}", Awaited.QEMU)
        self.wait_ready(deadline)
        message = _message(command, arguments)
        self._write("sent", message)
        (reply,) = self._result(self._client.execute_many([message]), deadline, self._tried(command))
        value = self._value(reply, command, arguments)
        if isinstance(value, QmpRefused):
            self._write("received", {"error": reply["error"]})
            raise value
        self._write("received", {"return": value})
        return value

    def execute_all(self, commands: Sequence[tuple[str, Arguments | None]]) -> list[Any | QmpRefused]:
        """Run commands without waiting for each reply; the transcript has their number only.

        :returns: their return values in the same order; for one that QEMU refused, the error.
        :raises QemuFailed: the connection broke.
        :raises DeadlineExceeded: not all replies in time.
        """
        deadline = Deadline(REPLY_S, f"the {self.name}'s replies to {len(commands)} commands", Awaited.QEMU)
        self.wait_ready(deadline)
        messages = [_message(*command) for command in commands]
        self._write("sent", {"commands": len(commands)})
        replies = self._result(self._client.execute_many(messages), deadline, self._tried(f"{len(commands)} commands"))
        return [self._value(reply, *command) for reply, command in zip(replies, commands, strict=True)]

    def _tried(self, command: str) -> str:
        return f"run {command} on the {self.name}"

    def _result(self, work: Coroutine[Any, Any, Value], deadline: Deadline, tried: str) -> Value:
        pending = self._submit(work)
        try:
            return deadline.result_of(pending)
        except FutureTimeout as error:
            pending.cancel()
            raise deadline.exceeded() from error
        except CONNECTION_ERRORS as error:
            self._check_flood(tried)
            raise QemuFailed(tried, f"the connection broke: {error or type(error).__name__}") from error

    def _value(self, reply: Message, command: str, arguments: Arguments | None) -> Any | QmpRefused:
        """The return value in a reply, or its error (QEMU docs/interop/qmp-spec.rst, "Commands Responses")."""
        tried, error = self._tried(command), reply.get("error")
        if isinstance(error, Mapping):
            kind, details = str(error.get("class")), json.dumps(arguments)
            return QmpRefused(tried, str(error.get("desc")), error_class=kind, details=details)
        if error is not None or "return" not in reply:
            raise QemuFailed(tried, "its reply has neither a value nor an error")
        return reply["return"]

    def pass_descriptor(self, name: str, descriptor: int) -> None:
        """Pass a copy of a descriptor to QEMU under a name (QMP getfd)."""

        async def send() -> None:
            self._client.send_fd_scm(descriptor)

        deadline = Deadline(REPLY_S, f"the {self.name} to take a descriptor", Awaited.QEMU)
        self.wait_ready(deadline)
        self._result(send(), deadline, f"pass a descriptor to the {self.name}")
        self.execute("getfd", {"fdname": name})

    @property
    def events(self) -> tuple[QmpEvent, ...]:
        """All events so far, in order of arrival."""
        with self._changed:
            return tuple(self._events)

    def wait_event(
        self,
        *names: str,
        deadline: Deadline,
        accept: Callable[[QmpEvent], bool] = lambda _event: True,
        after: int = 0,
    ) -> QmpEvent:
        """Wait for the first event with one of the names; past events count.

        :param after: number of events to ignore, from the first.
        :raises QemuFailed: the connection broke before.
        :raises DeadlineExceeded: there was none.
        """
        tried = f"wait for {' or '.join(names)} of the {self.name}"
        with self._changed:
            in_time = True
            while True:
                for event in self._events[after:]:
                    if event.name in names and accept(event):
                        return event
                self._check_flood(tried)
                if self._ended:
                    raise QemuFailed(tried, "the connection broke")
                if not in_time:
                    seen = ", ".join(event.name for event in self._events) or "none"
                    raise deadline.exceeded(f"events of the {self.name} so far: {seen}")
                in_time = self._changed.wait(timeout=deadline.remaining) or deadline.prolong()
