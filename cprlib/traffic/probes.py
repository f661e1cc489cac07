"""Single test packets to the guest and back, outside of the measured stream: the warm-up of flows, and probes.

They are sent from ordinary UDP sockets on the station, belong to a session of their own at the reflector
(:data:`cprlib.traffic.stamp.UNMEASURED_SSID`) and enter no figure.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Self

from cprlib.deadline import Deadline
from cprlib.linux.namespace import NetworkNamespace
from cprlib.traffic.flow import Flow
from cprlib.traffic.sockets import SO_TIMESTAMPNS, family_of, kernel_time_ns, new_socket
from cprlib.traffic.stamp import REFLECTOR, UNMEASURED_SSID, sender_packet

ROUND_TRIPS = 4  # of a warm-up, per flow
TRAFFIC_ANSWER_S = 15.0  # for a packet to the guest and back; AGENT_ANSWER_S has what a busy machine took
RESEND_S = 0.5  # without an answer for this long, the next packet is sent


def warm_up(
    namespace: NetworkNamespace, flows: Sequence[Flow], deadline: Deadline, *, round_trips: int = ROUND_TRIPS
) -> None:
    """Exchange a few packets on each flow, so that it has settled on a queue before it is measured.

    A multi-queue tap sends a flow's packets to the queue that its replies come from (tun_flow_update(),
    drivers/net/tun.c); until the first reply it chooses by hash. The change of queue can reorder the first packets of a
    flow, which neither QEMU nor an update causes. The tap forgets a flow after 3 s of silence.

    :param namespace: the station's; the flows' source ports must be free.
    :param round_trips: packets of each flow.
    :raises DeadlineExceeded: there were no answers.
    :raises EnvironmentFailure: a port is taken or an address is missing.
    """
    with Probes(namespace, flows) as probes:
        probes.wait_answers(deadline, round_trips)


class Listener:
    """A UDP socket on the station for packets that the guest sends by itself; a context manager.

    :param address: an address of the station.
    :raises EnvironmentFailure: the address is missing.
    """

    def __init__(self, namespace: NetworkNamespace, address: str) -> None:
        with namespace.entered(), new_socket(family_of(address), socket.SOCK_DGRAM, f"listen on {address}") as opened:
            opened.bind((address, 0))
            opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._socket = opened
        self.port = int(opened.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait(self, deadline: Deadline, size: int) -> int | None:
        """When the kernel received the next packet of a size, CLOCK_REALTIME in ns; None when none came in time.

        :param size: bytes of UDP payload; others are dropped.
        """
        while select.select([self._socket], [], [], deadline.remaining)[0]:
            payload, ancillary, _, _ = self._socket.recvmsg(65536, 128)
            if len(payload) == size:
                return kernel_time_ns(ancillary)
        return None


class Probes:
    """Sends single packets on each flow and waits for their answers; a context manager.

    :param flows: their source ports must be free. With several flows, a multi-queue guest answers from several queues.
    :raises EnvironmentFailure: on entering: a port is taken or an address is missing.
    """

    def __init__(self, namespace: NetworkNamespace, flows: Sequence[Flow]) -> None:
        self._namespace = namespace
        self._flows = tuple(flows)
        self._sockets: list[socket.socket] = []
        self._next = [0] * len(self._flows)
        self._unanswered: list[set[int]] = [set() for _ in self._flows]
        self._answered_ns: list[int] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for flow in self._flows:
                kind, purpose = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, f"probe with {flow.name}"
                with self._namespace.entered(), new_socket(family_of(flow.source), kind, purpose) as opened:
                    opened.bind((flow.source, flow.source_port))
                    opened.connect((flow.target, flow.target_port))
                self._sockets.append(stack.enter_context(opened))
                opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets, before the body ends."""
        self._resources.close()

    @property
    def count(self) -> int:
        return len(self._flows)

    def round_trip(self, index: int, deadline: Deadline, *, quiet_s: float = 0.0) -> bool:
        """Send one packet on one flow, and wait for its answer; returns whether it arrives.

        :param index: number of the flow, from 0.
        :param quiet_s: seconds without packets before it, so that it finds idle queues.
        """
        time.sleep(quiet_s)  # no event announces silence
        self._forget()  # late answers, which are read and ignored below
        self._send_on(index)
        while self._unanswered[index] and not deadline.expired:
            self._receive(min(0.1, deadline.remaining))
        answered = not self._unanswered[index]
        self._forget()
        return answered

    def send(self, count: int = 1) -> int:
        """Send ``count`` packets on each flow; returns how many were sent in all."""
        for index in range(len(self._flows)):
            for _ in range(count):
                self._send_on(index)
        return count * len(self._flows)

    def _send_on(self, index: int) -> None:
        packet = sender_packet(self._next[index], time.time_ns(), UNMEASURED_SSID, self._flows[index].size)
        self._unanswered[index].add(self._next[index])
        self._next[index] += 1
        with contextlib.suppress(ConnectionRefusedError):  # an earlier packet found no reflector
            self._sockets[index].send(packet)

    def count_missing(self, deadline: Deadline) -> int:
        """Wait for the answers to everything sent; returns how many are missing at the deadline, and forgets them."""
        self._answered_ns.clear()
        while any(self._unanswered) and not deadline.expired:
            self._receive(min(0.1, deadline.remaining))
        missing = sum(map(len, self._unanswered))
        self._forget()
        return missing

    def count_late(self, deadline: Deadline) -> int:
        """How many answers to packets that were given up come until the deadline."""
        late = 0
        while not deadline.expired:
            late += self._receive(min(0.1, deadline.remaining))
        return late

    @property
    def first_answer_ns(self) -> int | None:
        """When the kernel received the first answer of the last :meth:`count_missing`; None without one."""
        return min(self._answered_ns, default=None)

    def wait_answers(self, deadline: Deadline, count: int = 2) -> None:
        """Send on each flow until it is answered, ``count`` times in all; packets may be lost meanwhile.

        :raises DeadlineExceeded: a flow is not answered.
        """
        for _ in range(count):
            self._forget()
            silent = set(range(len(self._flows)))
            first = list(self._next)
            while silent:
                for index in silent:
                    self._send_on(index)
                resend = Deadline(RESEND_S, "an answer")
                while silent and not resend.expired:
                    self._receive(min(0.1, resend.remaining))
                    silent = {
                        index for index in silent if len(self._unanswered[index]) == self._next[index] - first[index]
                    }
                if silent and deadline.expired:
                    self._forget()
                    names = ", ".join(self._flows[index].name for index in sorted(silent))
                    raise deadline.exceeded(f"no answer on {names}")
        self._forget()

    def _forget(self) -> None:
        for sequences in self._unanswered:
            sequences.clear()

    def _receive(self, seconds: float) -> int:
        """Take answers for some seconds; returns how many were not waited for."""
        late = 0
        readable, _, _ = select.select(self._sockets, [], [], seconds)
        for opened in readable:
            with contextlib.suppress(OSError, struct.error):
                payload, ancillary, _, _ = opened.recvmsg(65536, 128)
                number = REFLECTOR.unpack_from(payload)[5]  # the sender's
                unanswered = self._unanswered[self._sockets.index(opened)]
                late += number not in unanswered
                if number in unanswered and (time_ns := kernel_time_ns(ancillary)):
                    self._answered_ns.append(time_ns)
                unanswered.discard(number)
        return late
