"""The station's endpoints of background traffic, in a worker process: a session-reflector and TCP endpoints.

They run as real-time threads like the instrument (:mod:`cprlib.traffic.worker`), below it in priority: in the process
of a test they would measure the test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import CprlibError, InstrumentError
from cprlib.linux.libc import become_realtime
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.reflector import StampReflector
from cprlib.traffic.tcp import TcpEndpoint, TcpEndpointReport, TcpEndpointSettings
from cprlib.traffic.worker import ANSWER_S, WorkerProcess

PRIORITY = 6  # below capture and sender


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


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error in the worker, on its way to the caller."""

    tried: str
    happened: str
    advice: str


class StationEndpoints:
    """The worker with its endpoints; a context manager that ends it.

    Its sockets belong to the network namespace of the calling thread.

    :param port: UDP port of the session-reflector, :param addresses: local addresses that it binds.
    :raises InstrumentError: the worker did not start, or the port is taken.
    """

    def __init__(self, port: int, addresses: tuple[str, ...]) -> None:
        with contextlib.ExitStack() as stack:
            self._worker = stack.enter_context(WorkerProcess(__name__, "the station's endpoints"))
            self._request((port, addresses))
            self._resources = stack.pop_all()

    def __enter__(self) -> StationEndpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def connect(self, settings: TcpEndpointSettings) -> int:
        """Start a TCP endpoint; returns its number.

        :raises InstrumentError: its port is taken.
        """
        number = self._request(("connect", settings))
        assert isinstance(number, int)
        return number

    def byte_count(self, number: int) -> int:
        """Bytes that an endpoint has sent or received so far."""
        byte_count = self._request(("byte_count", number))
        assert isinstance(byte_count, int)
        return byte_count

    def finish(self, number: int, seconds: float) -> TcpEndpointReport:
        """Finish an endpoint; see :meth:`cprlib.traffic.tcp.TcpEndpoint.finish`."""
        report = self._request(("finish", number, seconds), seconds=seconds + ANSWER_S)
        assert isinstance(report, TcpEndpointReport)
        return report

    def reflections(self) -> ReflectorLog:
        """The session-reflector's log so far."""
        log = self._request(("reflections",))
        assert isinstance(log, ReflectorLog)
        return log

    def _request(self, request: object, seconds: float = ANSWER_S) -> object:
        answer = self._worker.request(request, seconds)
        if isinstance(answer, _Failure):
            raise InstrumentError(answer.tried, answer.happened, answer.advice)
        return answer


def main(control_fd: int) -> None:
    """The worker: serve requests until the control socket is closed."""
    with Connection(control_fd) as control, contextlib.suppress(EOFError, BrokenPipeError):
        port, addresses = control.recv()
        become_realtime(PRIORITY)  # threads that are started later inherit it
        with contextlib.ExitStack() as stack:
            try:
                reflector = stack.enter_context(StampReflector(port, addresses))
            except CprlibError as error:
                control.send(_Failure(error.tried, error.happened, error.advice))
                return
            for answer in _serve(control, reflector, stack):
                control.send(answer)


def _serve(control: Connection[Any, Any], reflector: StampReflector, stack: contextlib.ExitStack) -> Iterator[object]:
    endpoints: list[TcpEndpoint] = []

    def connect(settings: TcpEndpointSettings) -> int:
        endpoints.append(stack.enter_context(TcpEndpoint(settings)))
        return len(endpoints) - 1

    requests: dict[str, Callable[..., object]] = {
        "connect": connect,
        "byte_count": lambda number: endpoints[number].byte_count,
        "finish": lambda number, seconds: endpoints[number].finish(Deadline(seconds, "the connection to be closed")),
        "reflections": lambda: ReflectorLog(reflector.log(), reflector.dropped, dict(reflector.counts)),
    }
    yield "ready"
    while True:
        name, *arguments = control.recv()
        try:
            answer = requests[name](*arguments)
        except CprlibError as error:
            answer = _Failure(error.tried, error.happened, error.advice)
        yield answer
