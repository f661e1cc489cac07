"""The traffic instrument: sender and capture in a worker process, and the object that controls them."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cprlib.errors import InstrumentError
from cprlib.linux.libc import become_ordinary, become_realtime
from cprlib.traffic.capture import CaptureReport, StampCapture
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.frames import FrameTemplate, RawFrame
from cprlib.traffic.packet_records import ArrivalColumns, SentColumns
from cprlib.traffic.ring import PacketRing, RingSettings, open_ring
from cprlib.traffic.sender import SenderReport, StampSender, make_templates
from cprlib.traffic.sockets import open_sending
from cprlib.traffic.worker import ANSWER_S, WorkerProcess

STALL_S = 2.5  # the ring holds this much traffic while the reader gets no processor
SWITCH_INTERVAL_S = 50e-6  # how long the reader may keep the interpreter from a sender that is due
CONTROL_PRIORITY = 12  # between capture and sender
_PER_FRAME = 48 + 20 + 14 + 16 + 48  # bytes in the ring beside the test packet: headers and alignment


@dataclass(frozen=True, slots=True)
class _Task:
    """What the worker measures; descriptors are numbers in the worker."""

    sending_fd: int
    ring_fd: int
    ring: RingSettings
    templates: tuple[FrameTemplate, ...]
    settings: StreamSettings
    keep_frames: int


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """Packets sent and answers captured so far, copies included; ``finished``: the sender has ended."""

    sent: int
    answers: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything that sender and capture recorded.

    :param sent, arrivals: one entry per flow.
    :param failure: the error that ended the sender's thread; empty without one.
    """

    sent: tuple[SentColumns, ...]
    arrivals: tuple[ArrivalColumns, ...]
    frames: deque[RawFrame]
    sender: SenderReport
    capture: CaptureReport
    failure: str


def ring_for(flows: Sequence[Flow], settings: StreamSettings) -> RingSettings:
    """A ring that holds the answers of :data:`STALL_S`, between 16 and 128 MiB."""
    usual = RingSettings()
    largest = max(flow.size for flow in flows) + _PER_FRAME
    blocks = int(settings.rate * largest * STALL_S / usual.block_size) + 1
    return RingSettings(blocks=min(max(blocks, usual.blocks), 1024))


class Instrument:
    """Sender and capture in a worker process; a context manager that ends it.

    Sockets are opened in the network namespace of the calling thread. The capture starts at once.

    :param keep_frames: raw frames to keep for a pcap.
    :raises UsageError: no flow, or two flows whose answers are indistinguishable.
    :raises EnvironmentFailure: no such interface, no rights, no memory.
    :raises InstrumentError: the worker did not start.
    """

    def __init__(self, interface: str, flows: Sequence[Flow], settings: StreamSettings, *, keep_frames: int) -> None:
        with contextlib.ExitStack() as stack:
            templates = make_templates(flows)
            size = ring_for(flows, settings)
            sending = stack.enter_context(open_sending(interface))
            ring = stack.enter_context(open_ring(interface, size))
            fds = (sending.fileno(), ring.fileno())
            self._worker = stack.enter_context(WorkerProcess(__name__, "the traffic instrument", fds))
            self._worker.request(_Task(*fds, size, templates, settings, keep_frames))
            self._resources = stack.pop_all()

    def __enter__(self) -> Instrument:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def start(self) -> None:
        """Begin to send."""
        self._worker.request("start")

    def progress(self) -> StreamProgress:
        """How far the stream is."""
        answer = self._worker.request("progress")
        assert isinstance(answer, StreamProgress)
        return answer

    def stop_sending(self) -> None:
        """Send no further packet; the capture continues."""
        self._worker.request("stop")

    def finish(self) -> Recording:
        """Stop sender and capture.

        :raises InstrumentError: the worker or its sender died.
        """
        recording = self._worker.request("finish", seconds=10 * ANSWER_S)
        assert isinstance(recording, Recording)
        if recording.failure:
            raise InstrumentError("send test packets", recording.failure)
        return recording


def main(control_fd: int) -> None:
    """The worker: carry out one task."""
    with Connection(control_fd) as control, contextlib.suppress(EOFError, BrokenPipeError):
        task = control.recv()
        gc.freeze()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        note = become_realtime(CONTROL_PRIORITY)  # threads that are started later inherit it
        ring = PacketRing(socket.socket(fileno=task.ring_fd), task.ring)
        with (
            StampCapture(ring, [template.flow for template in task.templates], keep_frames=task.keep_frames) as capture,
            StampSender(socket.socket(fileno=task.sending_fd), task.templates, task.settings) as sender,
        ):
            for answer in _serve(control, sender, capture, (note,) if note else ()):
                control.send(answer)


def _serve(
    control: Connection[Any, Any], sender: StampSender, capture: StampCapture, notes: tuple[str, ...]
) -> Iterator[object]:
    yield "ready"
    while True:
        request = control.recv()
        if request == "start":
            capture.start()
            sender.start()
        elif request == "stop":
            sender.stop()
        elif request == "finish":
            yield _finish(sender, capture, notes)
            return
        yield StreamProgress(sum(map(len, sender.columns)), sum(map(len, capture.columns)), sender.finished)


def _finish(sender: StampSender, capture: StampCapture, notes: tuple[str, ...]) -> Recording:
    sender.stop()
    failure = ""
    try:
        sender.join()
    except Exception as error:  # raised in the controlling process
        failure = repr(error.__cause__ or error)
    capture.stop()
    become_ordinary()  # the rest takes long and is not urgent
    report = sender.report(notes)
    return Recording(sender.columns, capture.columns, capture.frames, report, capture.report(), failure)
