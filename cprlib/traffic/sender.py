"""The session-sender: a thread that sends prebuilt frames on schedule and records the time of each."""

from __future__ import annotations

import errno
import socket
import threading
import time
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cprlib.errors import InstrumentError, UsageError
from cprlib.linux.libc import change_priority, make_sleeper, set_timer_slack
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.frames import FrameTemplate

LEAD_NS = 20_000_000  # from the start of the thread to the first packet
PRIORITY = 20  # above the capture: a late packet stays late, a late reader catches up
BURST = 16  # packets sent back to back to catch up after a delay; more could overflow a queue
STOP_CHECK_NS = 50_000_000  # longest sleep at a low rate, so that a stop takes effect


@dataclass(frozen=True, slots=True)
class SenderReport:
    """The sender's own account.

    :param sent: packets that the kernel accepted.
    :param refused: packets that it refused, by name of the error (``ENOBUFS``); they have no sequence number.
    :param pacing_p99_ns: lateness of packets against the schedule, 99th percentile.
    :param first_ns, last_ns: T1 of the first and the last packet; None without any.
    :param notes: what was not permitted: real-time scheduling, timer slack.
    """

    sent: int
    refused: Mapping[str, int]
    pacing_p99_ns: int
    first_ns: int | None
    last_ns: int | None
    notes: tuple[str, ...] = ()


class StampSender:
    """Sends test packets of several flows in turn; a context manager that stops the thread.

    :param opened: from :func:`cprlib.traffic.sockets.open_sending`; closed with this object.
    :param templates: one per flow, see :func:`make_templates`.
    """

    def __init__(self, opened: socket.socket, templates: Sequence[FrameTemplate], settings: StreamSettings) -> None:
        self.settings = settings
        #: of each flow: T1 by sequence number, CLOCK_REALTIME just before send(2)
        self.sent_ns = tuple(array("q") for _ in templates)
        self._templates = tuple(templates)
        self._lateness_ns = array("q")
        self._refused: Counter[str] = Counter()
        self._notes: list[str] = []
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stamp-sender", daemon=True)
        self._socket = opened

    def __enter__(self) -> StampSender:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._started:
            self._thread.join()
        self._socket.close()  # the records remain

    def start(self) -> None:
        """Begin to send, :data:`LEAD_NS` from now."""
        self._thread.start()

    def stop(self) -> None:
        """Make the thread send no further packet."""
        self._stop.set()

    def join(self) -> None:
        """Wait until everything is sent, or :meth:`stop` has taken effect.

        :raises InstrumentError: an error ended the thread.
        """
        if self._started:
            self._thread.join()
        if self._failure is not None:
            raise InstrumentError("send test packets", repr(self._failure)) from self._failure

    @property
    def _started(self) -> bool:
        return self._thread.ident is not None

    @property
    def finished(self) -> bool:
        """True when the thread has ended."""
        return self._started and not self._thread.is_alive()

    def report(self, notes: Sequence[str] = ()) -> SenderReport:
        """The sender's account, after :meth:`join`.

        :param notes: put before the sender's own.
        """
        late = sorted(self._lateness_ns)
        stamps = [sent_ns for sent_ns in self.sent_ns if sent_ns]
        return SenderReport(
            sent=sum(map(len, self.sent_ns)),
            refused=dict(self._refused),
            pacing_p99_ns=_rank(late, 0.99),
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
        except BaseException as error:  # raised by join()
            self._failure = error

    def _send_all(self) -> None:
        sleep_until, clock = make_sleeper(), time.time_ns
        send, stopped = self._socket.send, self._stop.is_set
        period = self.settings.period_ns
        allowed = round(period * BURST)
        add_lateness = self._lateness_ns.append
        turns = [
            (template.patch, sent_ns, sent_ns.append)
            for template, sent_ns in zip(self._templates, self.sent_ns, strict=True)
        ]
        flows = len(turns)
        now = clock()
        start = now + LEAD_NS
        for slot in range(self.settings.packets):
            due = start + int(slot * period)
            if now >= due:  # late: no sleep, but its own time stamp
                now = clock()
            while now < due:
                sleep_until(min(due, now + STOP_CHECK_NS))
                now = clock()
                if now < due and stopped():
                    return
            if stopped():
                return
            late = now - due
            add_lateness(late)
            if late > allowed:
                start += late - allowed
            patch, sent_ns, add_sent = turns[slot % flows]
            try:
                send(patch(len(sent_ns), now))
            except OSError as error:
                self._refused[errno.errorcode.get(error.errno or 0, str(error))] += 1
            else:
                add_sent(now)


def make_templates(flows: Sequence[Flow]) -> tuple[FrameTemplate, ...]:
    """The frame templates of a stream.

    :raises UsageError: no flow, or two flows whose answers are indistinguishable.
    """
    if not flows:
        raise UsageError("send test packets", "there is no flow", "give at least one")
    if len({(flow.source, flow.source_port) for flow in flows}) != len(flows):
        raise UsageError("send test packets", "two flows share a source port", "give each its own")
    return tuple(FrameTemplate(flow) for flow in flows)


def _rank(ordered: Sequence[int], quantile: float) -> int:
    """Nearest-rank percentile of sorted values; 0 without any."""
    return ordered[max(0, -(-len(ordered) * round(quantile * 100) // 100) - 1)] if ordered else 0
