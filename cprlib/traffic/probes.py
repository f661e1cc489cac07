"""Single packets to the guest and back: does it answer, and has everything arrived? No rates, no delays.

For checks beside the measured traffic: a few packets of each flow, sent when the test says, each of which has to be
answered within a deadline. They belong to a session of their own at the reflector and count in no figure.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from types import TracebackType

from cprlib.deadline import Deadline
from cprlib.errors import EnvironmentFailure
from cprlib.linux.namespace import NetworkNamespace
from cprlib.traffic.flow import Flow
from cprlib.traffic.flow_socket import open_flow
from cprlib.traffic.stamp import Malformed, ReflectorPacket, SenderPacket
from cprlib.traffic.warm_up import WARM_UP_SSID

SO_TIMESTAMPNS = 35  # asm-generic/socket.h
TIMESPEC = struct.Struct("@qq")
AGAIN_S = 0.5  # a packet that is repeated until it is answered is sent again after so long


class Probes:
    """Sockets on the station, one per flow, as a context manager.

    :param flows: their source ports must be free; with several, a multi-queue guest answers from several queues.
    :raises EnvironmentFailure: a port is taken or an address is not there.
    """

    def __init__(self, namespace: NetworkNamespace, flows: Sequence[Flow]) -> None:
        self._namespace = namespace
        self._flows = tuple(flows)
        self._sockets: list[socket.socket] = []
        self._next = [0] * len(self._flows)
        self._waiting: list[set[int]] = [set() for _ in self._flows]
        self._answered_ns: list[int] = []

    def __enter__(self) -> Probes:
        try:
            for flow in self._flows:
                opened = open_flow(self._namespace, flow, f"probe with {flow.name}", socket.SOCK_NONBLOCK)
                self._sockets.append(opened)
                opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        except EnvironmentFailure:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for opened in self._sockets:
            opened.close()

    def send(self, count: int = 1) -> int:
        """Send so many packets on each flow.

        :returns: how many were sent in all.
        """
        for index in range(len(self._flows)):
            for _ in range(count):
                self._send_on(index)
        return count * len(self._flows)

    def _send_on(self, index: int) -> None:
        packet = SenderPacket(self._next[index], time.time_ns(), ssid=WARM_UP_SSID).encode(self._flows[index].size)
        self._waiting[index].add(self._next[index])
        self._next[index] += 1
        with contextlib.suppress(ConnectionRefusedError):  # an earlier packet found no reflector
            self._sockets[index].send(packet)

    def missing(self, deadline: Deadline) -> int:
        """Wait for the answers to all that was sent; what is missing then is forgotten.

        :returns: how many answers did not come in time.
        """
        self._answered_ns.clear()
        while any(self._waiting) and not deadline.expired:
            self._take(min(0.1, deadline.remaining))
        left = sum(map(len, self._waiting))
        self._forget()
        return left

    @property
    def first_answer_ns(self) -> int | None:
        """When the kernel received the first answer that :meth:`missing` took; None when there was none."""
        return min(self._answered_ns, default=None)

    def wait_answers(self, deadline: Deadline, count: int = 2) -> None:
        """Send on each flow until it has been answered, and so many times in all; a packet may be lost on the way.

        :raises DeadlineExceeded: a flow gives no answer.
        """
        for _ in range(count):
            self._forget()
            silent = set(range(len(self._flows)))
            first = list(self._next)
            while silent:
                for index in silent:
                    self._send_on(index)
                again = Deadline(AGAIN_S, "an answer")
                while silent and not again.expired:
                    self._take(min(0.1, again.remaining))
                    silent = {
                        index for index in silent if len(self._waiting[index]) == self._next[index] - first[index]
                    }
                if silent and deadline.expired:
                    self._forget()
                    names = ", ".join(self._flows[index].name for index in sorted(silent))
                    raise deadline.exceeded(f"no answer on {names}")
        self._forget()

    def _forget(self) -> None:
        for waiting in self._waiting:
            waiting.clear()

    def _take(self, seconds: float) -> None:
        readable, _, _ = select.select(self._sockets, [], [], seconds)
        for opened in readable:
            with contextlib.suppress(OSError, Malformed):
                payload, ancillary, _, _ = opened.recvmsg(65536, 128)
                answer = ReflectorPacket.decode(payload)
                for level, kind, data in ancillary:
                    if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                        seconds, rest = TIMESPEC.unpack(data[: TIMESPEC.size])
                        self._answered_ns.append(seconds * 1_000_000_000 + rest)
                self._waiting[self._sockets.index(opened)].discard(answer.sender_sequence)
