"""One call for tests: send a stream, capture the answers, and put the figures together."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

from cprlib.deadline import Deadline
from cprlib.errors import InstrumentError
from cprlib.net.namespace import NetworkNamespace
from cprlib.net.topology import STATION_INTERFACE
from cprlib.traffic.capture import BUFFERED_FRAMES, RawFrame, StampCapture
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.ports import HeldPorts
from cprlib.traffic.records import Reflection
from cprlib.traffic.result import TrafficResult, make_result
from cprlib.traffic.ring import RingSettings
from cprlib.traffic.sender import StampSender

SWITCH_INTERVAL_S = 50e-6  # how long another thread may keep the interpreter from a sender that is due
STALL_S = 2.5  # the ring holds this much, should the reader not get a processor
_PER_FRAME = 48 + 20 + 14 + 16 + 48  # octets in the ring beside the IP packet's payload: headers and alignment


class TrafficSession:
    """A stream of test packets, as a context manager; it starts on entering and is stopped on leaving.

    ::

        with TrafficSession(topology.station, flows, settings) as session:
            ...                                   # the live update
            session.finish(linger_s=1.0)          # no further packet; late answers may come
        result = session.result(reflector_log)

    :param namespace: where the station's interface is; None for the namespace of the calling thread.
    :param keep_frames: raw frames kept for a pcap, of each kind; 0 for none.
    :raises UsageError, EnvironmentFailure: from sender, capture or ports, before anything was sent.
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
        self._sender: StampSender | None = None
        self._capture: StampCapture | None = None

    def __enter__(self) -> TrafficSession:
        with contextlib.ExitStack() as stack:
            entered = self._namespace.entered() if self._namespace is not None else contextlib.nullcontext()
            with entered:
                sender = stack.enter_context(StampSender(self._interface, self.flows, self.settings))
                stack.enter_context(HeldPorts(self.flows))
                capture = stack.enter_context(
                    StampCapture(
                        self._interface,
                        self.flows,
                        keep_frames=self._keep_frames,
                        ring=ring_for(self.flows, self.settings),
                    )
                )
            stack.enter_context(quiet_interpreter())
            capture.start()
            sender.start()
            self._sender, self._capture = sender, capture
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    @property
    def sender(self) -> StampSender:
        """The running sender; its records may be read at any time."""
        assert self._sender is not None, "the session was not entered"
        return self._sender

    @property
    def capture(self) -> StampCapture:
        """The running capture."""
        assert self._capture is not None, "the session was not entered"
        return self._capture

    @property
    def sent(self) -> int:
        """Packets sent so far."""
        return sum(map(len, self.sender.columns))

    @property
    def answers(self) -> int:
        """Answers captured so far, copies included."""
        return sum(map(len, self.capture.columns))

    @property
    def frames(self) -> Sequence[RawFrame]:
        """Raw frames that came in, the latest ones; for a pcap."""
        return self.capture.frames

    def wait_for_answers(self, count: int, deadline: Deadline) -> None:
        """Wait until so many answers are there, e.g. before an update begins.

        :raises DeadlineExceeded: too few came.
        """
        deadline.poll(lambda: True if self.answers >= count else None)

    def wait_sent(self, deadline: Deadline) -> None:
        """Wait until the whole stream is sent.

        :raises DeadlineExceeded: it is still being sent.
        :raises InstrumentError: the sender died.
        """
        self.sender.join(deadline)

    def finish(self, *, linger_s: float = 1.0) -> None:
        """Send no further packet, wait for late answers, and stop the capture.

        :param linger_s: the longest wait, in seconds; shorter when there is an answer to every packet.
        :raises InstrumentError: the sender died.
        """
        self.sender.stop()
        self.sender.join()
        end = time.monotonic() + linger_s
        while self.answers < self.sent and time.monotonic() < end:
            time.sleep(0.01)  # silence is what is waited for; no event announces it
        self.capture.stop()

    def result(self, log: Iterable[Reflection] | None = None, *, reflector_drops: int | None = None) -> TrafficResult:
        """The figures; after :meth:`finish`, also when the session was left.

        :param log: the reflector's log; None when it could not be had.
        :param reflector_drops: packets lost in the reflector's socket; None when it could not be asked.
        :raises InstrumentError: nothing was ever sent.
        """
        if self._sender is None or self._capture is None:
            raise InstrumentError("measure traffic", "the session was never entered")
        if self.sent == 0:
            refused = ", ".join(f"{name} {count} times" for name, count in self._sender.report().refused.items())
            raise InstrumentError("measure traffic", f"no packet was sent ({refused or 'stopped too early'})")
        return make_result(
            self.flows,
            self.settings,
            self._sender.columns,
            self._capture.columns,
            (self._sender.report(), self._capture.report()),
            log=log,
            reflector_drops=reflector_drops,
        )


def ring_for(flows: Sequence[Flow], settings: StreamSettings) -> RingSettings:
    """A ring that holds :data:`STALL_S` of the answers, between 16 and 128 MiB."""
    usual = RingSettings()
    largest = max(flow.size for flow in flows) + _PER_FRAME
    blocks = int(settings.rate * largest * STALL_S / usual.block_size) + 1
    return RingSettings(blocks=min(max(blocks, usual.blocks), 1024))


@contextlib.contextmanager
def quiet_interpreter() -> Iterator[None]:
    """Keep this interpreter from delaying the sender: quick switches between threads, no long garbage collection.

    What exists already is set aside (``gc.freeze``), so that a collection only looks at what was made since.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)
