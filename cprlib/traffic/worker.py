"""A worker process of the instrument: requests and answers over a socket pair.

A worker runs real-time threads and nothing that could delay them. One interpreter runs one thread at a time, so in the
test's process the test itself would delay the sender; and where there is one processor, an ordinary thread that holds
the interpreter can block a real-time thread until the kernel throttles that (seen in the lab: 1 s). Therefore every
thread of a worker is a real-time one, and it starts with the standard library only (``python -I -S``).
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any, Self, TypeVar

from cprlib.deadline import SCALE_VARIABLE, Deadline
from cprlib.errors import CprlibError, InstrumentError
from cprlib.files import import_folder
from cprlib.process import spawn

WORKER_ANSWER_S = 30.0  # for the start and for each request: a worker is quick, the machine may be busy
ADVICE = f"on a slow machine set {SCALE_VARIABLE} to 2 or more"
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[2])
from {module} import serve
from cprlib.traffic.worker import main
main(int(sys.argv[1]), serve)
"""
Value = TypeVar("Value")


class WorkerProcess:
    """A worker, as a context manager that ends it; in the network namespace of the calling thread.

    :param module: its module, which has a context manager ``serve(*arguments)``: it yields the object that requests
        are made to.
    :param name: for messages: ``the traffic instrument``.
    :param pass_fds: descriptors that it inherits under the same numbers.
    :raises InstrumentError: the worker did not start, or ``serve`` failed in it.
    """

    def __init__(self, module: str, name: str, *arguments: object, pass_fds: Sequence[int] = ()) -> None:
        self._name = name
        self._numbers = itertools.count()  # of the requests; an answer has the number of its request
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            with theirs:
                self._control: Connection[Any, Any] = stack.enter_context(Connection(ours.detach()))
                program = _PROGRAM.format(module=module)
                command = [sys.executable, "-I", "-S", "-c", program, str(theirs.fileno()), str(import_folder())]
                fds = (theirs.fileno(), *pass_fds)
                stack.enter_context(spawn(command, purpose=f"start {name}", pass_fds=fds))
            self.request(type(None), "serve", *arguments)
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def request(self, kind: type[Value], name: str, *arguments: object, seconds: float = WORKER_ANSWER_S) -> Value:
        """Call a method of the object in the worker and wait for its result, which is a ``kind``.

        :raises InstrumentError: the process is gone or does not answer, or an error of the method.
        """
        tried, deadline = f"talk to {self._name}", Deadline(seconds, f"an answer of {self._name}")
        number = next(self._numbers)
        answered, answer = -1, None
        try:
            self._control.send((number, name, arguments))
            while answered != number:  # an earlier request that got no answer in time may get it now
                if not self._control.poll(deadline.remaining):
                    raise InstrumentError(tried, f"no answer after {deadline.seconds:.1f} s", ADVICE)
                answered, answer = self._control.recv()
        except (EOFError, OSError) as error:
            raise InstrumentError(tried, f"its process is gone ({error!r})", "read its stderr above") from error
        if isinstance(answer, CprlibError):
            raise InstrumentError(answer.tried, answer.happened, answer.advice) from answer
        assert isinstance(answer, kind)
        return answer


def main(control_fd: int, serve: Callable[..., AbstractContextManager[object]]) -> None:
    """The worker: carry out requests until the control socket is closed."""
    with (
        Connection(control_fd) as control,
        contextlib.suppress(EOFError, BrokenPipeError),
        contextlib.ExitStack() as stack,
    ):
        served: object = None
        while True:
            number, name, arguments = control.recv()
            answer = None
            try:
                if served is None:
                    served = stack.enter_context(serve(*arguments))
                else:
                    answer = getattr(served, name)(*arguments)
            except CprlibError as error:
                answer = error
            control.send((number, answer))
