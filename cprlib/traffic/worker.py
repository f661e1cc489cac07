"""The instrument's own process: sender and capture, and nothing that could hold them up.

Started by :mod:`cprlib.traffic.instrument`. One interpreter runs one thread at a time: in the process of a test,
whatever else that does would delay the sender, and where there is one processor a thread of ordinary priority that
holds the interpreter would keep a real-time thread waiting until the kernel throttles that (seen in the lab: 1 s). So
all threads of this process are real-time ones, and it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cprlib.linux.realtime import become_ordinary, become_realtime
from cprlib.traffic.capture import CaptureReport, RawFrame, StampCapture
from cprlib.traffic.flow import StreamSettings
from cprlib.traffic.frame import FrameTemplate
from cprlib.traffic.records import ArrivalColumns, SentColumns
from cprlib.traffic.ring import PacketRing, RingSettings
from cprlib.traffic.sender import SenderReport, StampSender

SWITCH_INTERVAL_S = 50e-6  # how long the reader may keep the interpreter from a sender that is due
CONTROL_PRIORITY = 12  # between capture and sender


@dataclass(frozen=True, slots=True)
class Job:
    """What the process is to do; descriptors are its own numbers."""

    sending_fd: int
    ring_fd: int
    ring: RingSettings
    templates: tuple[FrameTemplate, ...]
    settings: StreamSettings
    keep_frames: int


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """Where the process is: packets sent, answers captured, and whether the sender has ended."""

    sent: int
    answers: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that was recorded."""

    sent: tuple[SentColumns, ...]
    arrivals: tuple[ArrivalColumns, ...]
    frames: deque[RawFrame]
    sender: SenderReport
    capture: CaptureReport
    failure: str


def main(control_fd: int) -> None:
    """Do one job for the process at the other end of the control socket."""
    with Connection(control_fd) as control, contextlib.suppress(EOFError, BrokenPipeError):
        job = control.recv()
        gc.freeze()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        note = become_realtime(CONTROL_PRIORITY)  # before there are threads: they inherit it
        ring = PacketRing(socket.socket(fileno=job.ring_fd), job.ring)
        with (
            StampCapture(ring, [template.flow for template in job.templates], keep_frames=job.keep_frames) as capture,
            StampSender(socket.socket(fileno=job.sending_fd), job.templates, job.settings) as sender,
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
        yield WorkerProgress(sum(map(len, sender.columns)), sum(map(len, capture.columns)), sender.finished)


def _finish(sender: StampSender, capture: StampCapture, notes: tuple[str, ...]) -> Records:
    sender.stop()
    failure = ""
    try:
        sender.join()
    except Exception as error:  # told to the other process, which raises it
        failure = repr(error.__cause__ or error)
    capture.stop()
    become_ordinary()  # what remains takes long and is not urgent
    sent = sender.report(notes)
    return Records(sender.columns, capture.columns, capture.frames, sent, capture.report(), failure)


if __name__ == "__main__":
    os.umask(0o077)
    main(int(sys.argv[1]))
