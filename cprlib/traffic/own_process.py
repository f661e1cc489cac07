"""A program of the measuring in a process of its own, and questions to it over a socket pair.

It starts with the standard library only (``python -I -S``), because what a test's process has imported and does would
hold it up; see :mod:`cprlib.traffic.worker`.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import InstrumentError
from cprlib.files import import_folder
from cprlib.process import spawn

ANSWER_S = 30.0  # for starting, and for a question; the process is quick, a machine may be busy
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[2]); from {module} import main; main(int(sys.argv[1]))"


class OwnProcess:
    """The process, as a context manager that ends it; its ``main()`` is given the descriptor to be asked on.

    It runs in the network namespace of the thread that makes this object.

    :param module: its module, with a function ``main(control_fd)``.
    :param what: how messages call it: ``the traffic instrument``.
    :param pass_fds: descriptors that it shall have under the same numbers.
    """

    def __init__(self, module: str, what: str, pass_fds: Sequence[int] = ()) -> None:
        self._what = what
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            with theirs:
                self._control: Connection[Any, Any] = Connection(ours.detach())
                stack.enter_context(self._control)
                program = _PROGRAM.format(module=module)
                command = [sys.executable, "-I", "-S", "-c", program, str(theirs.fileno()), str(import_folder())]
                fds = (theirs.fileno(), *pass_fds)
                stack.enter_context(spawn(command, purpose=f"start {what}", pass_fds=fds))
            self._resources = stack.pop_all()

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def ask(self, request: object, seconds: float = ANSWER_S) -> object:
        """Send a request and wait for its answer.

        :raises InstrumentError: the process is gone.
        :raises DeadlineExceeded: it did not answer.
        """
        deadline = Deadline(seconds, f"an answer of {self._what}")
        try:
            self._control.send(request)
            if not self._control.poll(deadline.remaining):
                raise deadline.exceeded()
            return self._control.recv()
        except (EOFError, OSError) as error:
            raise InstrumentError(
                f"talk to {self._what}", f"its process is gone ({error!r})", "look for its last words above"
            ) from error
