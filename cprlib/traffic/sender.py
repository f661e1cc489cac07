"""The session-sender: a thread that sends prebuilt frames at exact moments and notes when each one went."""

from __future__ import annotations

import errno
import socket
import threading
import time
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from cprlib.deadline import Deadline
from cprlib.errors import EnvironmentFailure, InstrumentError, UsageError
from cprlib.linux.libc import change_priority, make_sleeper, set_timer_slack
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.frames import FrameTemplate
from cprlib.traffic.packet_records import SentColumns

LEAD_NS = 20_000_000  # from the start of the thread to the first packet
PRIORITY = 20  # above the capture: sending late cannot be mended, reading late can
STOP_CHECK_NS = 50_000_000  # at a low rate, sleep no longer than this before looking whether to stop


@dataclass(frozen=True, slots=True)
class SenderReport:
    """How well the sender did.

    :param sent: packets that the kernel took.
    :param refused: packets it did not take, by name of the error (``ENOBUFS``); they have no sequence number.
    :param pacing_p50_ns, pacing_p99_ns, pacing_max_ns: how late packets were against their plan.
    :param slipped_ns: by how much the plan was put off in all, because the sender was held up for longer than its
        burst allows.
    :param notes: what was not granted: real-time scheduling, timer slack.
    """

    sent: int
    refused: Mapping[str, int]
    pacing_p50_ns: int
    pacing_p99_ns: int
    pacing_max_ns: int
    slipped_ns: int
    first_ns: int | None
    last_ns: int | None
    notes: tuple[str, ...] = ()


class StampSender:
    """Sends STAMP packets of several flows in turn; a context manager that stops the thread.

    :param opened: what :func:`open_sending` gave; closed with this object.
    :param templates: a frame for each flow, see :func:`make_templates`.
    """

    def __init__(self, opened: socket.socket, templates: Sequence[FrameTemplate], settings: StreamSettings) -> None:
        self.settings = settings
        self.columns = tuple(SentColumns() for _ in templates)
        self._templates = tuple(templates)
        self._lateness_ns = array("q")
        self._refused: Counter[str] = Counter()
        self._slipped_ns = 0
        self._notes: list[str] = []
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._started = False
        self._thread = threading.Thread(target=self._run, name="stamp-sender", daemon=True)
        self._socket = opened

    def __enter__(self) -> StampSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to send, :data:`LEAD_NS` from now."""
        self._started = True
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to send no further packet."""
        self._stop.set()

    def join(self, deadline: Deadline | None = None) -> None:
        """Wait until everything is sent, or :meth:`stop` took effect.

        :raises DeadlineExceeded: it still sends.
        :raises InstrumentError: the thread died of an error of its own.
        """
        if not self._started:
            return
        self._thread.join(None if deadline is None else deadline.remaining)
        if self._thread.is_alive():
            assert deadline is not None
            raise deadline.exceeded(f"{sum(map(len, self.columns))} packets sent")
        if self._failure is not None:
            raise InstrumentError("send test packets", repr(self._failure)) from self._failure

    @property
    def finished(self) -> bool:
        """True when the thread has ended."""
        return self._started and not self._thread.is_alive()

    def close(self) -> None:
        """Stop, wait for the thread and close the socket; the records stay."""
        self.stop()
        if self._started:
            self._thread.join()
        self._socket.close()

    def report(self, notes: Sequence[str] = ()) -> SenderReport:
        """How well it went; call after :meth:`join`.

        :param notes: to go in front of the sender's own.
        """
        late = sorted(self._lateness_ns)
        stamps = [column.sent_ns for column in self.columns if len(column)]
        return SenderReport(
            sent=sum(map(len, self.columns)),
            refused=dict(self._refused),
            pacing_p50_ns=_rank(late, 0.5),
            pacing_p99_ns=_rank(late, 0.99),
            pacing_max_ns=late[-1] if late else 0,
            slipped_ns=self._slipped_ns,
            first_ns=min((column[0] for column in stamps), default=None),
            last_ns=max((column[-1] for column in stamps), default=None),
            notes=(*notes, *self._notes),
        )

    def _run(self) -> None:
        try:
            if not set_timer_slack(1):
                self._notes.append("timer slack of 1 ns refused")
            change_priority(PRIORITY)
            self._send_all()
        except BaseException as error:  # reported by join(), in the thread of the caller
            self._failure = error

    def _send_all(self) -> None:
        sleep_until, clock = make_sleeper(), time.time_ns
        send, stopped = self._socket.send, self._stop.is_set
        period = self.settings.period_ns
        allowed = round(period * self.settings.burst)
        note_late = self._lateness_ns.append
        turns = [
            (template.patch, columns.sent_ns, columns.sent_ns.append)
            for template, columns in zip(self._templates, self.columns, strict=True)
        ]
        flows = len(turns)
        now = clock()
        start = now + LEAD_NS
        for slot in range(self.settings.packets):
            due = start + int(slot * period)
            if now >= due:  # late: no sleep, but a stamp of its own
                now = clock()
            while now < due:
                sleep_until(min(due, now + STOP_CHECK_NS))
                now = clock()
                if now < due and stopped():
                    return
            if stopped():
                return
            late = now - due
            note_late(late)
            if late > allowed:
                start += late - allowed
                self._slipped_ns += late - allowed
            patch, sent_ns, note_sent = turns[slot % flows]
            try:
                send(patch(len(sent_ns), now))
            except OSError as error:
                self._refused[errno.errorcode.get(error.errno or 0, str(error))] += 1
            else:
                note_sent(now)


def make_templates(flows: Sequence[Flow]) -> tuple[FrameTemplate, ...]:
    """Build the frames of a stream.

    :raises UsageError: no flow, or two flows that no answer could tell apart.
    """
    if not flows:
        raise UsageError("send test packets", "there is no flow", "give at least one")
    if len({(flow.source, flow.source_port) for flow in flows}) != len(flows):
        raise UsageError("send test packets", "two flows share a source port", "give each one of its own")
    return tuple(FrameTemplate(flow) for flow in flows)


def open_sending(interface: str) -> socket.socket:
    """A packet socket that sends on an interface of the calling thread's network namespace and receives nothing.

    :param interface: e.g. ``eth0``.
    :raises EnvironmentFailure: no such interface, or no right to open packet sockets.
    """
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # 0: receives nothing
    except OSError as error:
        raise EnvironmentFailure(
            "open a packet socket", error.strerror or str(error), "run as root or in the lab"
        ) from error
    try:
        opened.bind((interface, 0))
    except OSError as error:
        opened.close()
        raise EnvironmentFailure(
            f"send on interface {interface}", error.strerror or str(error), "check that it is in this network namespace"
        ) from error
    return opened


def _rank(ordered: Sequence[int], quantile: float) -> int:
    """Nearest-rank percentile of sorted values, 0 for none."""
    return ordered[max(0, -(-len(ordered) * round(quantile * 100) // 100) - 1)] if ordered else 0
