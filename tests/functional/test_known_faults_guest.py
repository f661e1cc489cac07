"""Injected faults at the endpoints: a paused reflector, malformed packets, queues that no one reads."""

from __future__ import annotations

import time
from functools import partial

from cprlib.deadline import Deadline
from cprlib.evidence.records import Role
from cprlib.linux import packet_faults as faults
from cprlib.linux.counters import QdiscSide, read_counters
from cprlib.linux.packet_faults import PacketSelection, StampPacket
from cprlib.linux.topology import PORT
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.traffic.figures import Direction
from cprlib.traffic.session import TrafficSession
from cprlib.update.running_guest import RunningGuest
from injected_faults import PathFault, PathFaultBench, StoppedGuest
from malformed_frames import MalformedFrames

FORWARD = Direction.FORWARD
SMALL_BUFFER, USUAL_BUFFER = 32 << 10, 32 << 20  # bytes; images/guest/agent/datagram.h
PAUSE_S, LEAST_REPORTED_SHARE = 0.1, 0.8
PACKETS_OF_A_PAUSE = 900  # on a busy machine the guest's agent pauses late
QUEUES, KEPT = 4, 10  # packets, of each tap queue


def _dropped(guest: RunningGuest) -> int:
    return read_counters(guest.topology.switch, guest.tap).tx_dropped


def _kept(guest: RunningGuest, sent: int, before: int) -> int:
    """Packets that the tap's queues have kept, of those sent."""
    return sent - (_dropped(guest) - before)


class KnownFaultsGuest(LiveUpdateTest):
    """vhost with four queues; every fault is injected ``fault_repeats`` times on one guest."""

    timeout = 1200

    def test_endpoint_faults_are_counted_and_located(self) -> None:
        """The loss at a paused reflector and at short tap queues is reported exactly; malformed packets are ignored.

        A paused reflector loses nothing while its socket has room, and all further packets when it is full: the guest's
        counter (UDP RcvbufErrors), the figures and the row at the guest's stack agree, and the first packets are kept.
        Four tap queues of 10 packets under a stopped guest keep ten for each queue that has a flow. Invalid, foreign,
        short and corrupt packets, fragments and other protocols sent into the running stream at both ends are counted
        by kind, and a known loss beside them is still reported exactly.

        :avocado: tags=mechanism:none,vhost:on,queues:4,instrument:faults
        """
        with self.given_guest(GuestSpec(queues=QUEUES, vhost=True, role=Role.CHECKS)) as case, case.control_step():
            bench = PathFaultBench(case)
            for _ in range(self.parameters.fault_repeats):
                self._pause_with_room(bench)
                self._pause_without_room(bench)
                self._malformed_packets(bench)
                self._short_queues(bench)
            bench.add_checks()

    def _pause_with_room(self, bench: PathFaultBench) -> None:
        agent = bench.guest.agent

        def pause_for_a_while(session: TrafficSession) -> None:
            session.wait_for_answers(20, Deadline(20, "answers before the pause"))
            agent.pause_reflector()
            time.sleep(PAUSE_S)  # the pause itself, not a wait
            agent.pause_reflector(paused=False)

        run = bench.run(packets=PACKETS_OF_A_PAUSE, during=pause_for_a_while)
        longest = run.result.interruption.return_.high_ms or 0.0
        # When the last answer before the pause is late, the gap is shorter by its delay.
        too_short = (
            ""
            if longest >= LEAST_REPORTED_SHARE * PAUSE_S * 1000
            else f"a pause of {PAUSE_S * 1000:.0f} ms shows as {longest:.0f} ms"
        )
        bench.compare("paused-with-room", run, PathFault(FORWARD), too_short)

    def _pause_without_room(self, bench: PathFaultBench) -> None:
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
        dropped = run.deltas["guest.udp_rcvbuf_errors"]
        missing = run.result.flows[0].forward.missing
        bench.compare(
            "paused-without-room",
            run,
            PathFault(FORWARD, "guest stack", dropped, reason="reflector.overflow"),
            "" if 0 < dropped < packets else f"the guest's socket dropped {dropped} of {packets}",
            "" if missing == tuple(range(packets - dropped, packets)) else "the packets kept are not the first ones",
        )

    def _malformed_packets(self, bench: PathFaultBench) -> None:
        topology, port = bench.guest.topology, bench.next_port
        numbers, frames = PacketSelection(StampPacket.TEST, port), MalformedFrames(port)
        lost = numbers.among(bench.packets)

        def send_frames(session: TrafficSession) -> None:
            session.wait_for_answers(50, Deadline(20, "answers before the malformed packets"))
            frames.send(topology)

        with faults.drop(topology.switch, PORT, QdiscSide.INGRESS, numbers):
            run = bench.run(during=send_frames, answers=bench.packets - len(lost) + frames.invalid_answers)
        different = frames.differences(run.result, run.reflector)
        bench.compare("malformed-packets", run, PathFault(FORWARD, "switch", lost), *different)

    def _short_queues(self, bench: PathFaultBench) -> None:
        guest, pause, packets = bench.guest, StoppedGuest(bench.guest.machine), 400
        with bench.tap_queue_length(KEPT):
            run = bench.run(
                packets=packets,
                flows=2 * QUEUES,
                prepare=pause.stop,
                during=pause.resume_when_sent,
                expecting=partial(_kept, guest, packets, _dropped(guest)),
                stops=pause.stops,
            )
        kept, dropped = run.result.answered, run.deltas["tap.tx_dropped"]
        first_ones = all(
            flow.forward.missing == tuple(range(len(flow.sent_ns) - flow.forward.lost, len(flow.sent_ns)))
            for flow in run.result.flows
        )
        bench.compare(
            "short-queues-under-a-stopped-guest",
            run,
            PathFault(FORWARD, "tap queue", dropped, reason="FULL_RING", moment="after STOP, before RESUME"),
            "" if kept in range(KEPT, QUEUES * KEPT + 1, KEPT) else f"{kept} kept in {QUEUES} queues of {KEPT}",
            "" if first_ones else "the packets kept are not the first ones of each flow",
        )
