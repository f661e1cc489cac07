"""The instrument as the rest of the program sees it: a process of its own that sends and captures."""

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
from cprlib.files import project_folder
from cprlib.process import spawn
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.ring import RingSettings, open_ring
from cprlib.traffic.sender import make_templates, open_sending
from cprlib.traffic.worker import Job, Progress, Records

ANSWER_S = 30.0  # for starting, and for a question; the process is quick, a machine may be busy
STALL_S = 2.5  # the ring holds this much, should the reader not get a processor
_PER_FRAME = 48 + 20 + 14 + 16 + 48  # octets in the ring beside the test packet: headers and alignment
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[2]); from cprlib.traffic.worker import main; main(int(sys.argv[1]))"


def ring_for(flows: Sequence[Flow], settings: StreamSettings) -> RingSettings:
    """A ring that holds :data:`STALL_S` of the answers, between 16 and 128 MiB."""
    usual = RingSettings()
    largest = max(flow.size for flow in flows) + _PER_FRAME
    blocks = int(settings.rate * largest * STALL_S / usual.block_size) + 1
    return RingSettings(blocks=min(max(blocks, usual.blocks), 1024))


class Instrument:
    """A sender and a capture in a process of their own; a context manager that ends it.

    Sockets are made in the network namespace of the calling thread. The capture runs from then on.

    :param keep_frames: raw frames to keep for a pcap.
    :raises UsageError: no flow, or two that no answer could tell apart.
    :raises EnvironmentFailure: no such interface, no rights, no memory.
    :raises InstrumentError: the process did not come up.
    """

    def __init__(self, interface: str, flows: Sequence[Flow], settings: StreamSettings, *, keep_frames: int) -> None:
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            templates = make_templates(flows)
            shape = ring_for(flows, settings)
            sending = stack.enter_context(open_sending(interface))
            ring = stack.enter_context(open_ring(interface, shape))
            ours, theirs = socket.socketpair()
            with theirs:
                self._control: Connection[Any, Any] = Connection(ours.detach())
                stack.enter_context(self._control)
                fds = (theirs.fileno(), sending.fileno(), ring.fileno())
                command = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(fds[0]), str(project_folder())]
                stack.enter_context(spawn(command, purpose="start the traffic instrument", pass_fds=fds))
            job = Job(sending.fileno(), ring.fileno(), shape, templates, settings, keep_frames)
            self._ask(job)
            self._resources = stack.pop_all()

    def __enter__(self) -> Instrument:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def start(self) -> None:
        """Begin to send."""
        self._ask("start")

    def progress(self) -> Progress:
        """Where it is."""
        answer = self._ask("progress")
        assert isinstance(answer, Progress)
        return answer

    def stop_sending(self) -> None:
        """Send no further packet; the capture goes on."""
        self._ask("stop")

    def finish(self) -> Records:
        """Stop everything and hand over the records.

        :raises InstrumentError: the process died, or its sender did.
        """
        records = self._ask("finish", seconds=10 * ANSWER_S)
        assert isinstance(records, Records)
        if records.failure:
            raise InstrumentError("send test packets", records.failure)
        return records

    def _ask(self, request: object, seconds: float = ANSWER_S) -> object:
        deadline = Deadline(seconds, "an answer of the traffic instrument")
        try:
            self._control.send(request)
            if not self._control.poll(deadline.remaining):
                raise deadline.exceeded()
            return self._control.recv()
        except (EOFError, OSError) as error:
            raise InstrumentError(
                "talk to the traffic instrument", f"its process is gone ({error!r})", "look for its last words above"
            ) from error
