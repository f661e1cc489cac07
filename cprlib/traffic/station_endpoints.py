"""The station's endpoints of background traffic, in a worker process: a session-reflector and TCP endpoints.

They run as real-time threads like the instrument (:mod:`cprlib.traffic.worker`), below it in priority: in the process
of a test they would measure the test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from cprlib.deadline import Deadline
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


class StationEndpoints(WorkerProcess):
    """The worker with its endpoints; a context manager that ends it.

    Its sockets belong to the network namespace of the calling thread.

    :param port: UDP port of the session-reflector, :param addresses: local addresses that it binds.
    :raises InstrumentError: the worker did not start, or the port is taken.
    """

    def __init__(self, port: int, addresses: tuple[str, ...]) -> None:
        super().__init__(__name__, "the station's endpoints", port, addresses)

    def connect(self, settings: TcpEndpointSettings) -> int:
        """Start a TCP endpoint; returns its number.

        :raises InstrumentError: its port is taken.
        """
        return self.request(int, "connect", settings)

    def byte_count(self, number: int) -> int:
        """Bytes that an endpoint has sent or received so far."""
        return self.request(int, "byte_count", number)

    def finish(self, number: int, seconds: float) -> TcpEndpointReport:
        """Finish an endpoint; see :meth:`cprlib.traffic.tcp.TcpEndpoint.finish`."""
        return self.request(TcpEndpointReport, "finish", number, seconds, seconds=seconds + ANSWER_S)

    def reflections(self) -> ReflectorLog:
        """The session-reflector's log so far."""
        return self.request(ReflectorLog, "reflections")


class _Endpoints:
    """The endpoints, in the worker."""

    def __init__(self, reflector: StampReflector, stack: contextlib.ExitStack) -> None:
        self._reflector = reflector
        self._stack = stack
        self._tcp: list[TcpEndpoint] = []

    def connect(self, settings: TcpEndpointSettings) -> int:
        self._tcp.append(self._stack.enter_context(TcpEndpoint(settings)))
        return len(self._tcp) - 1

    def byte_count(self, number: int) -> int:
        return self._tcp[number].byte_count

    def finish(self, number: int, seconds: float) -> TcpEndpointReport:
        return self._tcp[number].finish(Deadline(seconds, "the connection to be closed"))

    def reflections(self) -> ReflectorLog:
        return ReflectorLog(self._reflector.log(), self._reflector.dropped, dict(self._reflector.counts))


@contextlib.contextmanager
def serve(port: int, addresses: tuple[str, ...]) -> Iterator[_Endpoints]:
    """Run the endpoints in the worker."""
    become_realtime(PRIORITY)  # threads that are started later inherit it
    with contextlib.ExitStack() as stack:
        yield _Endpoints(stack.enter_context(StampReflector(port, addresses)), stack)
