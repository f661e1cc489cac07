"""A measured stream: send it, capture the answers, compute the figures."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator, Sequence

from cprlib.deadline import Deadline, wait_while_rising
from cprlib.errors import InstrumentError
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import STATION_INTERFACE
from cprlib.traffic.capture import BUFFERED_FRAMES
from cprlib.traffic.evaluation import make_result
from cprlib.traffic.flow import Flow, StreamSettings
from cprlib.traffic.frames import RawFrame
from cprlib.traffic.instrument import Recording, StreamProgress, ring_for, serve
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.ring import open_ring
from cprlib.traffic.sender import make_templates
from cprlib.traffic.sockets import ACCEPT_NOTHING, attach_filter, family_of, new_socket, open_sending
from cprlib.traffic.worker import WORKER_ANSWER_S, WorkerProcess

POLL_S = 0.02  # between two requests to the instrument
QUIET_S = 5.0  # while answers are missing: a living guest on a busy machine stood still for 3 s
LATEST_S = 15.0  # for late answers altogether


@contextlib.contextmanager
def reserved_ports(flows: Sequence[Flow]) -> Iterator[None]:
    """Keep the source ports of flows bound, in the namespace of the calling thread.

    Without a socket the kernel would reply "port unreachable" to every answer. A filter drops the answers at the socket
    (drop reason SOCKET_FILTER, which the drop trace ignores): no buffer overflows. The capture has seen them.

    :raises EnvironmentFailure: an address is not configured here, or a port is taken.
    """
    with contextlib.ExitStack() as stack:
        for flow in flows:
            tried = f"reserve UDP port {flow.source_port} of {flow.source}"
            advice = "end the other session, or add the address to the station"
            with new_socket(family_of(flow.source), socket.SOCK_DGRAM, tried, advice) as opened:
                attach_filter(opened, ACCEPT_NOTHING)
                opened.bind((flow.source, flow.source_port))
            stack.enter_context(opened)
        yield


class TrafficSession:
    """A stream of test packets; a context manager: the stream starts on entering and stops on leaving.

    ::

        with TrafficSession(topology.station, flows, settings) as session:
            session.wait_for_answers(500, Deadline(10, "traffic to flow"))
            ...                                   # the live update
            session.finish()                      # stop sending, wait for late answers
        result = session.result(reflector_log)

    :param namespace: the station's; None for the namespace of the calling thread.
    :param keep_frames: number of captured frames to keep for a pcap, the latest ones; 0 for none.
    :raises UsageError, EnvironmentFailure, InstrumentError: on entering, before anything is sent.
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
        self._worker: WorkerProcess | None = None
        self._recording: Recording | None = None
        self._still_arriving = False

    def __enter__(self) -> TrafficSession:
        templates, size = make_templates(self.flows), ring_for(self.flows, self.settings)
        with contextlib.ExitStack() as stack:
            with (
                self._namespace.entered() if self._namespace is not None else contextlib.nullcontext(),
                open_sending(self._interface) as sending,
                open_ring(self._interface, size) as ring,
            ):
                fds = (sending.fileno(), ring.fileno())  # the worker inherits both
                arguments = (*fds, size, templates, self.settings, self._keep_frames)
                worker = WorkerProcess(serve.__module__, "the traffic instrument", *arguments, pass_fds=fds)
                stack.enter_context(worker)
                stack.enter_context(reserved_ports(self.flows))
            worker.request(type(None), "start")
            self._worker = worker
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()
        self._worker = None

    def progress(self) -> StreamProgress:
        """How far the stream is."""
        return self._running.request(StreamProgress, "progress")

    @property
    def _running(self) -> WorkerProcess:
        if self._worker is None:
            raise InstrumentError("measure traffic", "the session is not running")
        return self._worker

    def wait_for_answers(self, count: int, deadline: Deadline) -> None:
        """Wait until ``count`` answers have arrived, e.g. before an update begins.

        :raises DeadlineExceeded: too few arrived.
        """
        deadline.poll(lambda: self.progress().answers >= count, POLL_S)

    def wait_sent(self, deadline: Deadline) -> None:
        """Wait until the whole stream is sent.

        :raises DeadlineExceeded: it is still being sent.
        """
        deadline.poll(lambda: self.progress().finished, POLL_S)

    def finish(self, *, linger_s: float = QUIET_S) -> None:
        """Stop sending, wait for late answers, and stop the capture.

        The wait ends when there are as many answers as packets, or no answer has come for a while. A guest that works
        off what waited during an update may need longer than that for all of them. When answers still arrive after
        :data:`LATEST_S`, that is a problem of the instrument: they would count as lost.

        :param linger_s: that while, in s.
        :raises InstrumentError: the instrument died.
        """

        def answered() -> tuple[int, int]:
            now = self.progress()
            return now.answers, now.sent

        self._running.request(type(None), "stop")
        latest_s = max(linger_s, LATEST_S)
        self._still_arriving = wait_while_rising(answered, quiet_s=linger_s, latest_s=latest_s, interval=POLL_S)
        self._recording = self._running.request(Recording, "finish", seconds=10 * WORKER_ANSWER_S)

    @property
    def sent(self) -> int:
        """Number of packets sent; after :meth:`finish`.

        :raises InstrumentError: the session was not finished.
        """
        return self._finished.sender.sent

    @property
    def frames(self) -> Sequence[RawFrame]:
        """The latest captured frames, for a pcap; after :meth:`finish`."""
        return self._finished.frames

    @property
    def _finished(self) -> Recording:
        if self._recording is None:
            raise InstrumentError("measure traffic", "the session was not finished", "call finish() in its body")
        return self._recording

    def result(self, log: Iterable[Reflection] | None = None, *, reflector_drops: int | None = None) -> TrafficResult:
        """The figures; after :meth:`finish`, also outside of the ``with`` statement.

        :param log: the reflector's log; None when it is not available.
        :param reflector_drops: packets lost in the reflector's socket; None when unknown.
        :raises InstrumentError: the session was not finished, or no packet was sent.
        """
        recording = self._finished
        if recording.sender.sent == 0:
            refused = ", ".join(f"{name} {count} times" for name, count in recording.sender.refused.items())
            raise InstrumentError("measure traffic", f"no packet was sent ({refused or 'stopped too early'})")
        return make_result(
            self.flows,
            self.settings,
            recording,
            log=log,
            reflector_drops=reflector_drops,
            still_arriving=self._still_arriving,
        )
