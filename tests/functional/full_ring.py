"""A guest that leaves its NIC's receive ring full for a while, as a busy one does, and packets that wait behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.qemu.nic_state import receive_ring_size
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.probes import warm_up
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession

TAKEN, WAITING = 100, 100  # packets beside those in the ring: that the driver takes at first, and that have no room
RATE = 3000.0  # packets/s
LONG_MS, SHORT_MS = 3000, 1500  # between two looks of the driver: longer than an update takes until the guest stops
ARRIVE_S = 5.0


@dataclass(slots=True)
class FullRing:
    """The receive ring of a case's guest, which has one queue pair."""

    case: MeasuredCase

    @contextlib.contextmanager
    def full(self, when: str, *, wait_ms: int = SHORT_MS) -> Iterator[None]:
        """The body runs while the ring is full and packets wait in front of it; in the end all of them arrive.

        :param when: for the checks' names: ``across-an-update``.
        :param wait_ms: how long the guest leaves it full, in ms of its clock.
        """
        agent, station = self.case.guest.agent, self.case.guest.topology.station
        flows = flows_between(count=1, first_port=self.case.ports.take())
        warm_up(station, flows, Deadline(10, "the guest to answer", Awaited.GUEST))
        agent.defer_receiving(wait_ms)
        taken = agent.reflector().received
        ring = receive_ring_size(self.case.guest.machine.qmp)
        settings = StreamSettings(rate=RATE, duration_s=(ring + TAKEN + WAITING) / RATE)
        with TrafficSession(station, flows, settings, keep_frames=0) as session:
            session.wait_sent(Deadline(10, "a burst of packets to be sent"))
            at_first = agent.reflector().received - taken
            yield
            at_last = agent.reflector().received - taken
            with contextlib.suppress(DeadlineExceeded):  # what is missing is counted below
                session.wait_for_answers(session.progress().sent, Deadline(wait_ms / 1000 + ARRIVE_S, "the answers"))
            session.finish(linger_s=1.0)
        agent.defer_receiving(0)
        self._judge(when, ring, session.result(), at_first, at_last)

    def _judge(self, when: str, ring: int, result: TrafficResult, at_first: int, at_last: int) -> None:
        """Say whether all packets arrived, and whether the ring was full as long as it had to be.

        :param ring: its buffers.
        :param at_first, at_last: packets that the guest had taken when the body began, and when it ended.
        """
        full = f"more than {ring} of {result.sent} packets wait for the guest, until it looks again"
        seen = f"{result.sent - at_first} waited at first, {result.sent - at_last} at last"
        if result.sent - at_last <= ring:
            self.case.inconclusive(f"ring-full-{when}", full, f"{seen}: the ring was not full all the time")
        else:
            self.case.expect(f"ring-full-{when}", True, full, seen)
        (flow,) = result.flows
        missing = ", ".join(str(number) for number in flow.missing[:8])
        copies = flow.answers - (result.sent - result.lost)
        self.case.expect(
            f"all-arrive-{when}",
            not result.lost and not copies,
            f"each of {result.sent} packets answered once",
            f"{result.lost} lost, {copies} doubled",
            f"{result.lost} of {result.sent} packets lost (numbers {missing or 'none'}), {copies} doubled, with a full "
            f"receive ring {when.replace('-', ' ')}",
        )
