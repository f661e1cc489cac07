"""The station's endpoints of background traffic, in a worker process: a session-reflector and TCP endpoints.

They run as real-time threads like the instrument (:mod:`cprlib.traffic.worker`), below it in priority: in the process
of a test they would measure the test.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

from cprlib.deadline import Deadline
from cprlib.errors import CprlibError, InstrumentError
from cprlib.linux.libc import become_realtime
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.reflector import StampReflector
from cprlib.traffic.tcp import TcpEndpoint, TcpEndpointReport, TcpEndpointSettings
from cprlib.traffic.worker import ANSWER_S, WorkerProcess

PRIORITY = 6  # below capture and sender
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ReflectorLog:
    """What the station's session-reflector recorded.

    :param log: every test packet answered, in the order of answering.
    :param dropped: packets that its sockets dropped because their buffers were full.
    :param counts: packets ignored and errors, by kind.
    """

    log: tuple[Reflection, ...]
    dropped: int
    counts: dict[str, int]


class StationEndpoints:
    """The worker with its endpoints; a context manager that ends it.

    Its sockets belong to the network namespace of the calling thread.

    :param port: UDP port of the session-reflector, :param addresses: local addresses that it binds.
    :raises InstrumentError: the worker did not start, or the port is taken.
    """

    def __init__(self, port: int, addresses: tuple[str, ...]) -> None:
        with contextlib.ExitStack() as stack:
            self._worker = stack.enter_context(WorkerProcess(__name__, "the station's endpoints"))
            self._request(type(None), "start", port, addresses)
            self._resources = stack.pop_all()

    def __enter__(self) -> StationEndpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def connect(self, settings: TcpEndpointSettings) -> int:
        """Start a TCP endpoint; returns its number.

        :raises InstrumentError: its port is taken.
        """
        return self._request(int, "connect", settings)

    def byte_count(self, number: int) -> int:
        """Bytes that an endpoint has sent or received so far."""
        return self._request(int, "byte_count", number)

    def finish(self, number: int, seconds: float) -> TcpEndpointReport:
        """Finish an endpoint; see :meth:`cprlib.traffic.tcp.TcpEndpoint.finish`."""
        return self._request(TcpEndpointReport, "finish", number, seconds, seconds=seconds + ANSWER_S)

    def reflections(self) -> ReflectorLog:
        """The session-reflector's log so far."""
        return self._request(ReflectorLog, "reflections")

    def _request(self, kind: type[Value], name: str, *arguments: object, seconds: float = ANSWER_S) -> Value:
        """Call a method of :class:`_Endpoints` in the worker."""
        answer = self._worker.request((name, arguments), seconds)
        if isinstance(answer, CprlibError):
            raise InstrumentError(answer.tried, answer.happened, answer.advice) from answer
        assert isinstance(answer, kind)
        return answer


class _Endpoints:
    """The endpoints, in the worker."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._tcp: list[TcpEndpoint] = []

    def start(self, port: int, addresses: tuple[str, ...]) -> None:
        self._reflector = self._stack.enter_context(StampReflector(port, addresses))

    def connect(self, settings: TcpEndpointSettings) -> int:
        self._tcp.append(self._stack.enter_context(TcpEndpoint(settings)))
        return len(self._tcp) - 1

    def byte_count(self, number: int) -> int:
        return self._tcp[number].byte_count

    def finish(self, number: int, seconds: float) -> TcpEndpointReport:
        return self._tcp[number].finish(Deadline(seconds, "the connection to be closed"))

    def reflections(self) -> ReflectorLog:
        return ReflectorLog(self._reflector.log(), self._reflector.dropped, dict(self._reflector.counts))


def main(control_fd: int) -> None:
    """The worker: serve requests until the control socket is closed."""
    become_realtime(PRIORITY)  # threads that are started later inherit it
    with (
        Connection(control_fd) as control,
        contextlib.suppress(EOFError, BrokenPipeError),
        contextlib.ExitStack() as stack,
    ):
        endpoints = _Endpoints(stack)
        while True:
            name, arguments = control.recv()
            try:
                answer = getattr(endpoints, name)(*arguments)
            except CprlibError as error:
                answer = error
            control.send(answer)
