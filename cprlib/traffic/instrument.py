"""The traffic instrument: sender and capture in a worker process; the session makes its requests."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cprlib.linux.libc import become_ordinary, become_realtime
from cprlib.traffic.capture import CaptureReport, StampCapture
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.frames import FrameTemplate, RawFrame
from cprlib.traffic.packet_records import ArrivalColumns
from cprlib.traffic.ring import PacketRing, RingSettings
from cprlib.traffic.sender import SenderReport, StampSender

STALL_S = 2.5  # the ring holds this much traffic while the reader gets no processor
SWITCH_INTERVAL_S = 50e-6  # how long the reader may keep the interpreter from a sender that is due
CONTROL_PRIORITY = 12  # between capture and sender
_PER_FRAME = 48 + 20 + 14 + 16 + 48  # bytes in the ring beside the test packet: headers and alignment


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """Packets sent and answers captured so far, copies included; ``finished``: the sender has ended."""

    sent: int
    answers: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything that sender and capture recorded.

    :param sent: per flow: T1 by sequence number; :param arrivals: per flow.
    """

    sent: tuple[array[int], ...]
    arrivals: tuple[ArrivalColumns, ...]
    frames: deque[RawFrame]
    sender: SenderReport
    capture: CaptureReport


def ring_for(flows: Sequence[Flow], settings: StreamSettings) -> RingSettings:
    """A ring that holds the answers of :data:`STALL_S`, between 16 and 128 MiB."""
    usual = RingSettings()
    largest = max(flow.size for flow in flows) + _PER_FRAME
    blocks = int(settings.rate * largest * STALL_S / usual.block_size) + 1
    return RingSettings(blocks=min(max(blocks, usual.blocks), 1024))


class _Threads:
    """Sender and capture, in the worker."""

    def __init__(self, sender: StampSender, capture: StampCapture, note: str) -> None:
        self._sender, self._capture = sender, capture
        self._notes = (note,) if note else ()

    def start(self) -> None:
        self._capture.start()
        self._sender.start()

    def stop(self) -> None:
        self._sender.stop()

    def progress(self) -> StreamProgress:
        sent, answers = sum(map(len, self._sender.sent_ns)), sum(map(len, self._capture.columns))
        return StreamProgress(sent, answers, self._sender.finished)

    def finish(self) -> Recording:
        sender, capture = self._sender, self._capture
        sender.stop()
        sender.join()
        capture.stop()
        become_ordinary()  # the rest takes long and is not urgent
        return Recording(sender.sent_ns, capture.columns, capture.frames, sender.report(self._notes), capture.report())


@contextlib.contextmanager
def serve(
    sending_fd: int,
    ring_fd: int,
    size: RingSettings,
    templates: tuple[FrameTemplate, ...],
    settings: StreamSettings,
    keep_frames: int,
) -> Iterator[_Threads]:
    """Run sender and capture in the worker; it has inherited the descriptors."""
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    note = become_realtime(CONTROL_PRIORITY)  # threads that are started later inherit it
    ring = PacketRing(socket.socket(fileno=ring_fd), size)
    with (
        StampCapture(ring, [template.flow for template in templates], keep_frames=keep_frames) as capture,
        StampSender(socket.socket(fileno=sending_fd), templates, settings) as sender,
    ):
        yield _Threads(sender, capture, note)
