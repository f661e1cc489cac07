"""The station's ends of streams beside the measured one, in a process of their own: a session-reflector and TCP ends.

In the process of a test they would wait for its interpreter, and on a lab's one processor for its scheduler: what they
measure would be the test. So they run like the instrument does (:mod:`cprlib.traffic.worker`): as real-time threads,
below it in priority, with the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import CprlibError, InstrumentError
from cprlib.linux.realtime import become_realtime
from cprlib.traffic.own_process import ANSWER_S, OwnProcess
from cprlib.traffic.records import Reflection
from cprlib.traffic.reflector import StampReflector
from cprlib.traffic.tcp import TcpEnd, TcpEndReport, TcpEndSettings

PRIORITY = 6  # below capture and sender


@dataclass(frozen=True, slots=True)
class Reflections:
    """What the station's session-reflector has to say.

    :param log: every test packet answered, in the order of answering.
    :param dropped: packets that its sockets lost for want of room.
    :param counts: packets ignored and errors, by kind.
    """

    log: tuple[Reflection, ...]
    dropped: int
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An error of the process, on its way to the caller."""

    tried: str
    happened: str
    advice: str


class StationEnds:
    """The process and its ends; a context manager that ends it.

    Its sockets belong to the network namespace of the thread that makes this object.

    :param port: UDP port of the session-reflector, :param addresses: local addresses that it answers on.
    :raises InstrumentError: the process did not come up, or its port is taken.
    """

    def __init__(self, port: int, addresses: tuple[str, ...]) -> None:
        with contextlib.ExitStack() as stack:
            self._process = stack.enter_context(OwnProcess(__name__, "the station's ends"))
            self._ask((port, addresses))
            self._resources = stack.pop_all()

    def __enter__(self) -> StationEnds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def connect(self, settings: TcpEndSettings) -> int:
        """Start one end of a TCP connection.

        :returns: its number.
        :raises InstrumentError: its port is taken.
        """
        number = self._ask(("connect", settings))
        assert isinstance(number, int)
        return number

    def byte_count(self, number: int) -> int:
        """Bytes that an end has sent or received so far."""
        byte_count = self._ask(("byte_count", number))
        assert isinstance(byte_count, int)
        return byte_count

    def finish(self, number: int, seconds: float) -> TcpEndReport:
        """Close an end's half and wait for the other end; see :meth:`cprlib.traffic.tcp.TcpEnd.finish`."""
        report = self._ask(("finish", number, seconds), seconds=seconds + ANSWER_S)
        assert isinstance(report, TcpEndReport)
        return report

    def reflections(self) -> Reflections:
        """The session-reflector's log so far."""
        reflections = self._ask(("reflections",))
        assert isinstance(reflections, Reflections)
        return reflections

    def _ask(self, request: object, seconds: float = ANSWER_S) -> object:
        answer = self._process.ask(request, seconds)
        if isinstance(answer, _Refusal):
            raise InstrumentError(answer.tried, answer.happened, answer.advice)
        return answer


def main(control_fd: int) -> None:
    """Serve the process at the other end of the control socket until it closes that."""
    with Connection(control_fd) as control, contextlib.suppress(EOFError, BrokenPipeError):
        port, addresses = control.recv()
        become_realtime(PRIORITY)  # before there are threads: they inherit it
        with contextlib.ExitStack() as stack:
            try:
                reflector = stack.enter_context(StampReflector(port, addresses))
            except CprlibError as error:
                control.send(_Refusal(error.tried, error.happened, error.advice))
                return
            for answer in _serve(control, reflector, stack):
                control.send(answer)


def _serve(control: Connection[Any, Any], reflector: StampReflector, stack: contextlib.ExitStack) -> Iterator[object]:
    ends: list[TcpEnd] = []

    def connect(settings: TcpEndSettings) -> int:
        ends.append(stack.enter_context(TcpEnd(settings)))
        return len(ends) - 1

    requests: dict[str, Callable[..., object]] = {
        "connect": connect,
        "byte_count": lambda number: ends[number].byte_count,
        "finish": lambda number, seconds: ends[number].finish(Deadline(seconds, "the connection to be closed")),
        "reflections": lambda: Reflections(reflector.log(), reflector.dropped, dict(reflector.counts)),
    }
    yield "ready"
    while True:
        name, *arguments = control.recv()
        try:
            answer = requests[name](*arguments)
        except CprlibError as error:
            answer = _Refusal(error.tried, error.happened, error.advice)
        yield answer


if __name__ == "__main__":
    os.umask(0o077)
    main(int(sys.argv[1]))
