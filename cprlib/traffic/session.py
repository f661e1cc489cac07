"""One call for tests: send a stream, capture the answers, and put the figures together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from cprlib.deadline import Deadline
from cprlib.errors import InstrumentError
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import STATION_INTERFACE
from cprlib.traffic.capture import BUFFERED_FRAMES, RawFrame
from cprlib.traffic.evaluation import make_result
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.instrument import Instrument
from cprlib.traffic.ports import HeldPorts
from cprlib.traffic.records import Reflection
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.worker import Records, WorkerProgress

POLL_S = 0.02  # between two questions to the instrument


class TrafficSession:
    """A stream of test packets, as a context manager; it starts on entering and is stopped on leaving.

    ::

        with TrafficSession(topology.station, flows, settings) as session:
            session.wait_for_answers(500, Deadline(10, "traffic to flow"))
            ...                                   # the live update
            session.finish(linger_s=1.0)          # no further packet; late answers may come
        result = session.result(reflector_log)

    :param namespace: where the station's interface is; None for the namespace of the calling thread.
    :param keep_frames: captured frames kept for a pcap, the latest ones; 0 for none.
    :raises UsageError, EnvironmentFailure, InstrumentError: on entering, before anything was sent.
    """

    def __init__(
        self,
        namespace: NetworkNamespace | None,
        flows: Sequence[Flow],
        settings: StreamSettings,
        *,
        interface: str = STATION_INTERFACE,
        keep_frames: int = BUFFERED_FRAMES,
    ) -> None:
        self.flows = tuple(flows)
        self.settings = settings
        self._namespace = namespace
        self._interface = interface
        self._keep_frames = keep_frames
        self._resources = contextlib.ExitStack()
        self._instrument: Instrument | None = None
        self._records: Records | None = None

    def __enter__(self) -> TrafficSession:
        with contextlib.ExitStack() as stack:
            with self._namespace.entered() if self._namespace is not None else contextlib.nullcontext():
                instrument = stack.enter_context(
                    Instrument(self._interface, self.flows, self.settings, keep_frames=self._keep_frames)
                )
                stack.enter_context(HeldPorts(self.flows))
            instrument.start()
            self._instrument = instrument
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()
        self._instrument = None

    def progress(self) -> WorkerProgress:
        """Packets sent and answers captured so far, copies included, and whether all is sent."""
        if self._instrument is None:
            raise InstrumentError("ask how far the traffic is", "the session is not running")
        return self._instrument.progress()

    def wait_for_answers(self, count: int, deadline: Deadline) -> None:
        """Wait until so many answers are there, e.g. before an update begins.

        :raises DeadlineExceeded: too few came.
        """
        deadline.poll(lambda: True if self.progress().answers >= count else None, POLL_S)

    def wait_sent(self, deadline: Deadline) -> None:
        """Wait until the whole stream is sent.

        :raises DeadlineExceeded: it is still being sent.
        """
        deadline.poll(lambda: True if self.progress().finished else None, POLL_S)

    def finish(self, *, linger_s: float = 1.0) -> None:
        """Send no further packet, wait for late answers, and stop the capture.

        :param linger_s: the longest wait, in seconds; shorter when there are as many answers as packets.
        :raises InstrumentError: the instrument died.
        """
        if self._instrument is None:
            raise InstrumentError("finish the traffic", "the session is not running")
        self._instrument.stop_sending()
        end = time.monotonic() + linger_s
        while (now := self.progress()).answers < now.sent and time.monotonic() < end:
            time.sleep(POLL_S)  # silence is what is waited for; no event announces it
        self._records = self._instrument.finish()

    @property
    def sent(self) -> int:
        """Packets that were sent in all; after :meth:`finish`.

        :raises InstrumentError: the session was not finished.
        """
        return self._finished.sender.sent

    @property
    def frames(self) -> Sequence[RawFrame]:
        """Frames that were captured, the latest ones; for a pcap."""
        return self._finished.frames

    @property
    def _finished(self) -> Records:
        if self._records is None:
            raise InstrumentError("measure traffic", "the session was not finished", "call finish() in its body")
        return self._records

    def result(self, log: Iterable[Reflection] | None = None, *, reflector_drops: int | None = None) -> TrafficResult:
        """The figures; after :meth:`finish`, also when the session was left.

        :param log: the reflector's log; None when it could not be had.
        :param reflector_drops: packets lost in the reflector's socket; None when it could not be asked.
        :raises InstrumentError: the session was not finished, or no packet was ever sent.
        """
        records = self._finished
        if records.sender.sent == 0:
            refused = ", ".join(f"{name} {count} times" for name, count in records.sender.refused.items())
            raise InstrumentError("measure traffic", f"no packet was sent ({refused or 'stopped too early'})")
        return make_result(
            self.flows,
            self.settings,
            records.sent,
            records.arrivals,
            (records.sender, records.capture),
            log=log,
            reflector_drops=reflector_drops,
        )
