"""Faults on purpose at the ends: a reflector that pauses, packets that make no sense, queues that nobody reads."""

from __future__ import annotations

import time
from functools import partial

from cprlib.deadline import Deadline
from cprlib.evidence.case import Role
from cprlib.linux import packet_faults as faults
from cprlib.linux.counters import Side, read_counters
from cprlib.linux.packet_faults import Numbers, Packet
from cprlib.linux.topology import PORT
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.traffic.figures import Direction
from cprlib.traffic.session import TrafficSession
from cprlib.update.running_guest import RunningGuest
from injected_faults import FaultBench, Injected, StoppedGuest
from malformed_frames import SenselessFrames

FORWARD = Direction.FORWARD
SMALL_BUFFER, USUAL_BUFFER = 32 << 10, 32 << 20  # bytes; images/guest/agent/datagram.h
PAUSE_S, SHOWN = 0.1, 0.8
LONG = 900  # packets: on a busy machine the guest's agent takes its time to pause
QUEUES, KEPT = 4, 10  # packets, of each tap queue


def _dropped(guest: RunningGuest) -> int:
    """Packets that the guest's tap has dropped so far."""
    return read_counters(guest.topology.switch, guest.tap).tx_dropped


def _kept(guest: RunningGuest, sent: int, before: int) -> int:
    """Packets that the tap's queues have kept of so many sent."""
    return sent - (_dropped(guest) - before)


class KnownFaultsGuest(LiveUpdateTest):
    """vhost with four queues; every fault is injected ``fault_repeats`` times on one guest."""

    timeout = 1200

    def test_endpoint_faults_are_counted_and_located(self) -> None:
        """What a paused reflector, short tap queues or nonsense cost is reported exactly; nonsense is ignored.

        A paused reflector loses nothing while its socket has room, and exactly the rest when it has none: the guest's
        own counter (UDP RcvbufErrors), the figures and the row at the guest's stack agree, kept are the first packets.
        Four tap queues of 10 packets under a stopped guest keep ten for each queue that has a flow. Nonsense, foreign,
        short and corrupt packets, fragments and other protocols into the running stream at both ends are counted by
        kind, and a known loss beside them stays exact.

        :avocado: tags=mechanism:none,vhost:on,queues:4,instrument:faults
        """
        with self.given_guest("cpr", queues=QUEUES, vhost=True, role=Role.CHECKS) as case:
            bench = FaultBench(case)
            for _ in range(self.parameters.fault_repeats):
                self._pause_with_room(bench)
                self._pause_without_room(bench)
                self._senseless_packets(bench)
                self._short_queues(bench)
            bench.conclude()

    def _pause_with_room(self, bench: FaultBench) -> None:
        agent = bench.guest.agent

        def pause_for_a_while(session: TrafficSession) -> None:
            session.wait_for_answers(20, Deadline(20, "answers before the pause"))
            agent.pause_reflector()
            time.sleep(PAUSE_S)  # the pause itself, not a wait for something
            agent.pause_reflector(paused=False)

        run = bench.run(packets=LONG, during=pause_for_a_while)
        longest = run.result.interruption.return_.high_ms or 0.0
        # The last answer before the pause may take longer than the agent's own: the gap is then shorter by that.
        hidden = (
            "" if longest >= SHOWN * PAUSE_S * 1000 else f"a pause of {PAUSE_S * 1000:.0f} ms shows as {longest:.0f} ms"
        )
        bench.compare("paused-with-room", run, Injected(FORWARD), hidden)

    def _pause_without_room(self, bench: FaultBench) -> None:
        agent, packets = bench.guest.agent, 200

        def resume_when_sent(session: TrafficSession) -> None:
            session.wait_sent(Deadline(30, "the stream to be sent"))
            agent.pause_reflector(paused=False, receive_buffer=USUAL_BUFFER)

        run = bench.run(
            packets=packets,
            prepare=lambda: agent.pause_reflector(receive_buffer=SMALL_BUFFER),
            during=resume_when_sent,
            expecting=lambda: packets - agent.reflector().socket_drops,
        )
        dropped = run.moved["guest.udp_rcvbuf_errors"]
        missing = run.result.flows[0].forward.missing
        bench.compare(
            "paused-without-room",
            run,
            Injected(FORWARD, "guest stack", None, dropped, reason="guest.udp_rcvbuf_errors"),
            "" if 0 < dropped < packets else f"the guest's socket dropped {dropped} of {packets}",
            "" if missing == tuple(range(packets - dropped, packets)) else "kept are not the first ones",
        )

    def _senseless_packets(self, bench: FaultBench) -> None:
        topology, port = bench.guest.topology, bench.next_port
        numbers, frames = Numbers(Packet.TEST, port), SenselessFrames(port)
        lost = numbers.among(bench.packets)

        def send_them(session: TrafficSession) -> None:
            session.wait_for_answers(50, Deadline(20, "answers before the nonsense"))
            frames.send(topology)

        with faults.drop(topology.switch, PORT, Side.INGRESS, numbers):
            run = bench.run(during=send_them, answers=bench.packets - len(lost) + frames.nonsense)
        different = frames.differences(run.result, run.reflector)
        bench.compare("senseless-packets", run, Injected(FORWARD, "switch", lost), *different)

    def _short_queues(self, bench: FaultBench) -> None:
        guest, pause, packets = bench.guest, StoppedGuest(bench.guest.machine), 400
        with bench.tap_queues_of(KEPT):
            run = bench.run(
                packets=packets,
                flows=2 * QUEUES,
                prepare=pause.stop,
                during=pause.resume_when_sent,
                expecting=partial(_kept, guest, packets, _dropped(guest)),
                moments=pause.moments,
            )
        kept, dropped = run.result.answered, run.moved["tap.tx_dropped"]
        first_ones = all(
            flow.forward.missing == tuple(range(len(flow.sent_ns) - flow.forward.lost, len(flow.sent_ns)))
            for flow in run.result.flows
        )
        bench.compare(
            "short-queues-under-a-stopped-guest",
            run,
            Injected(FORWARD, "tap queue", None, dropped, reason="FULL_RING", moment="after STOP, before RESUME"),
            "" if kept in range(KEPT, QUEUES * KEPT + 1, KEPT) else f"{kept} kept in {QUEUES} queues of {KEPT}",
            "" if first_ones else "kept are not the first ones of each flow",
        )
