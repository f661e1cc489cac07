"""The station's endpoints of background traffic, in a worker process: a session-reflector and TCP endpoints.

They run as real-time threads like the instrument (:mod:`cprlib.traffic.worker`), below it in priority: in the process
of a test they would measure the test. The reflector answers streams that start in the guest. It is stateful (RFC 8762
section 4.3): each session (peer address and port) has its own sequence numbers.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.linux.libc import become_realtime
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.sockets import (
    SO_RCVBUFFORCE,
    SO_TIMESTAMPNS,
    Ancillary,
    by_kind,
    family_of,
    kernel_time_ns,
    new_socket,
)
from cprlib.traffic.stamp import ERROR_ESTIMATE, MINIMUM_SIZE, REFLECTOR, SENDER, STAMP_PORT, ns_to_ntp
from cprlib.traffic.tcp import TcpEndpoint, TcpEndpointReport, TcpEndpointSettings
from cprlib.traffic.worker import WORKER_ANSWER_S, WorkerProcess

PRIORITY = 6  # below capture and sender
SO_RXQ_OVFL = 40  # asm-generic/socket.h
IP_RECVTTL = 12  # linux/in.h
RECEIVE_BUFFER = 64 * 1024 * 1024
LARGEST_DATAGRAM = 65536  # packets may be larger than the MTU


class StampReflector:
    """Answers test packets, one thread per address, and keeps a log; a context manager.

    The sockets belong to the network namespace of the calling thread.

    :param port: UDP port to listen on.
    :param addresses: local addresses to bind; all of IPv4 and IPv6 by default.
    :raises EnvironmentFailure: the port is taken, or rights are missing.
    """

    def __init__(self, port: int = STAMP_PORT, addresses: Sequence[str] = ("0.0.0.0", "::")) -> None:  # noqa: S104
        self.counts: Counter[str] = Counter()
        self._peers: list[tuple[str, int]] = []
        self._columns = tuple(array(kind) for kind in "IIqqI")
        self._sequences: dict[tuple[str, int], list[int]] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._overflow: dict[int, int] = {}
        self._lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            self._sockets = [stack.enter_context(_listen(address, port)) for address in addresses]
            self._resources = stack.pop_all()

    def __enter__(self) -> StampReflector:
        for opened in self._sockets:  # packets that arrived since construction wait in them
            thread = threading.Thread(target=self._run, args=(opened,), name="stamp-reflector", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._resources.close()

    @property
    def dropped(self) -> int:
        """Packets that the sockets dropped because their buffers were full (SO_RXQ_OVFL of the last packet)."""
        return sum(self._overflow.values())

    def log(self) -> tuple[Reflection, ...]:
        """Every test packet answered so far, in the order of answering."""
        lines = min(map(len, self._columns))
        sender, reflector, received, sent, peer = self._columns
        return tuple(
            Reflection(sender[i], reflector[i], received[i], sent[i], *self._peers[peer[i]]) for i in range(lines)
        )

    def _run(self, opened: socket.socket) -> None:
        opened.settimeout(0.05)
        while not self._stop.is_set():
            try:
                self._answer(opened)
            except TimeoutError:
                continue
            except OSError as error:
                self.counts[f"error: {error.strerror}"] += 1

    def _answer(self, opened: socket.socket) -> None:
        payload, ancillary, _flags, peer = opened.recvmsg(LARGEST_DATAGRAM, 256)
        if len(payload) < MINIMUM_SIZE:
            self.counts["too short"] += 1
            return
        received_ns, ttl = self._read_ancillary(opened, ancillary)
        sequence, stamp, estimate, ssid = SENDER.unpack_from(payload)
        if not estimate & 0xFF:  # a multiplier of 0 is invalid (RFC 4656 section 4.1.2)
            self.counts["corrupt"] += 1
            return
        key = (peer[0], peer[1])
        session = self._sequences.get(key)
        if session is None:
            with self._lock:
                session = self._sequences[key] = [len(self._peers), 0]
                self._peers.append(key)
        number, own = session
        sent_ns = time.time_ns()
        answer = REFLECTOR.pack(
            own, ns_to_ntp(sent_ns), ERROR_ESTIMATE, ssid, ns_to_ntp(received_ns), sequence, stamp, estimate, ttl
        )
        opened.sendto(answer + payload[MINIMUM_SIZE:], peer)
        session[1] = own + 1
        with self._lock:
            for column, value in zip(self._columns, (sequence, own, received_ns, sent_ns, number), strict=True):
                column.append(value)

    def _read_ancillary(self, opened: socket.socket, ancillary: Ancillary) -> tuple[int, int]:
        values = by_kind(ancillary)
        if overflow := values.get((socket.SOL_SOCKET, SO_RXQ_OVFL)):
            self._overflow[opened.fileno()] = int.from_bytes(overflow, sys.byteorder)
        ttl = values.get((socket.IPPROTO_IP, socket.IP_TTL)) or values.get((socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT))
        return kernel_time_ns(ancillary) or time.time_ns(), int.from_bytes(ttl, sys.byteorder) if ttl else 255


def _listen(address: str, port: int) -> socket.socket:
    family, tried = family_of(address), f"listen on UDP port {port} of {address}"
    with new_socket(family, socket.SOCK_DGRAM, tried, "end the other reflector, or choose another port") as opened:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        try:
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        opened.bind((address, port))
        return opened


@dataclass(frozen=True, slots=True)
class ReflectorLog:
    """The records of the station's session-reflector.

    :param log: every test packet answered, in the order of answering.
    :param dropped: packets that its sockets dropped because their buffers were full.
    :param counts: packets ignored and errors, by kind.
    """

    log: tuple[Reflection, ...]
    dropped: int
    counts: dict[str, int]


class StationEndpoints(WorkerProcess):
    """The worker with its endpoints; a context manager that ends it.

    Its sockets belong to the network namespace of the calling thread.

    :param port: UDP port of the session-reflector, :param addresses: local addresses that it binds.
    :raises InstrumentError: the worker did not start, or the port is taken.
    """

    def __init__(self, port: int, addresses: tuple[str, ...]) -> None:
        super().__init__(__name__, "the station's endpoints", port, addresses)

    def connect(self, settings: TcpEndpointSettings) -> int:
        """Start a TCP endpoint; returns its number.

        :raises InstrumentError: its port is taken.
        """
        return self.request(int, "connect", settings)

    def byte_count(self, number: int) -> int:
        return self.request(int, "byte_count", number)

    def finish(self, number: int, seconds: float) -> TcpEndpointReport:
        """Finish an endpoint; see :meth:`cprlib.traffic.tcp.TcpEndpoint.finish`."""
        return self.request(TcpEndpointReport, "finish", number, seconds, seconds=seconds + WORKER_ANSWER_S)

    def reflections(self) -> ReflectorLog:
        return self.request(ReflectorLog, "reflections")


class _Endpoints:
    """The endpoints, in the worker."""

    def __init__(self, reflector: StampReflector, stack: contextlib.ExitStack) -> None:
        self._reflector = reflector
        self._stack = stack
        self._tcp: list[TcpEndpoint] = []

    def connect(self, settings: TcpEndpointSettings) -> int:
        self._tcp.append(self._stack.enter_context(TcpEndpoint(settings)))
        return len(self._tcp) - 1

    def byte_count(self, number: int) -> int:
        return self._tcp[number].byte_count

    def finish(self, number: int, seconds: float) -> TcpEndpointReport:
        return self._tcp[number].finish(Deadline(seconds, "the connection to be closed"))

    def reflections(self) -> ReflectorLog:
        return ReflectorLog(self._reflector.log(), self._reflector.dropped, dict(self._reflector.counts))


@contextlib.contextmanager
def serve(port: int, addresses: tuple[str, ...]) -> Iterator[_Endpoints]:
    become_realtime(PRIORITY)  # threads that are started later inherit it
    with contextlib.ExitStack() as stack:
        yield _Endpoints(stack.enter_context(StampReflector(port, addresses)), stack)
