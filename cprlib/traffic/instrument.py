"""The instrument as the rest of the program sees it: a process of its own that sends and captures."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType

from cprlib.errors import InstrumentError
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.own_process import ANSWER_S, OwnProcess
from cprlib.traffic.ring import RingSettings, open_ring
from cprlib.traffic.sender import make_templates, open_sending
from cprlib.traffic.worker import Job, Records, WorkerProgress

STALL_S = 2.5  # the ring holds this much, should the reader not get a processor
_PER_FRAME = 48 + 20 + 14 + 16 + 48  # bytes in the ring beside the test packet: headers and alignment


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
            fds = (sending.fileno(), ring.fileno())
            module = "cprlib.traffic.worker"
            self._process = stack.enter_context(OwnProcess(module, "the traffic instrument", fds))
            job = Job(sending.fileno(), ring.fileno(), shape, templates, settings, keep_frames)
            self._process.ask(job)
            self._resources = stack.pop_all()

    def __enter__(self) -> Instrument:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def start(self) -> None:
        """Begin to send."""
        self._process.ask("start")

    def progress(self) -> WorkerProgress:
        """Where it is."""
        answer = self._process.ask("progress")
        assert isinstance(answer, WorkerProgress)
        return answer

    def stop_sending(self) -> None:
        """Send no further packet; the capture goes on."""
        self._process.ask("stop")

    def finish(self) -> Records:
        """Stop everything and hand over the records.

        :raises InstrumentError: the process died, or its sender did.
        """
        records = self._process.ask("finish", seconds=10 * ANSWER_S)
        assert isinstance(records, Records)
        if records.failure:
            raise InstrumentError("send test packets", records.failure)
        return records
