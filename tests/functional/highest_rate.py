"""The highest rate that a case's guest carries."""

from __future__ import annotations

from cprlib.deadline import Deadline
from cprlib.guest.packet_log import reflections
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.control_run import RateSearch, RateTrial, find_highest_rate
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.session import TrafficSession

LEAST_PACKETS, LEAST_S = 500, 0.7  # of one run
SENT_S = 30.0


def search_highest_rate(case: MeasuredCase, *, first: float, limit: float = 16_000.0) -> RateSearch:
    """Find the highest rate (packets/s) that a case's guest carries without loss, by short runs of one flow."""
    guest, first_port = case.guest, case.ports.take()

    def measure(rate: float) -> RateTrial:
        guest.agent.reset_reflector()
        flows = flows_between(count=1, first_port=first_port)
        settings = StreamSettings(rate, max(LEAST_PACKETS, round(rate * LEAST_S)))
        with TrafficSession(guest.topology.station, flows, settings, keep_frames=0) as session:
            session.wait_sent(Deadline(SENT_S, "the stream to be sent"))
            session.finish(linger_s=1.0)
        counters = guest.agent.reflector()
        log = reflections(guest.agent.reflector_log(), counters.peers)
        return RateTrial.of(session.result(log, reflector_drops=counters.socket_drops))

    return find_highest_rate(measure, first=first, limit=limit)
