"""Faults on purpose in the guest and at the edges: a reflector that pauses, and packets that make no sense."""

from __future__ import annotations

import time

from cprlib.deadline import Deadline
from cprlib.net import faults
from cprlib.net.faults import Numbers, Packet
from cprlib.net.queue_drops import Side
from cprlib.net.topology import PORT
from cprlib.traffic.hops import Direction
from cprlib.traffic.session import TrafficSession
from cprlib.verdict.evidence import Role
from fixtures.injected_faults import FaultBench, Injected
from fixtures.live_update_test import LiveUpdateTest
from fixtures.senseless_frames import SenselessFrames

FORWARD, RETURN = Direction.FORWARD, Direction.RETURN
SMALL_BUFFER, USUAL_BUFFER = 32 << 10, 32 << 20  # octets; images/guest/agent/datagram.h
PAUSE_S = 0.1


class KnownFaultsGuest(LiveUpdateTest):
    """vhost with one queue; every fault is injected ``fault_repeats`` times on one guest."""

    def test_a_paused_reflector_loses_only_what_finds_no_room(self) -> None:
        """A paused reflector loses nothing while its socket has room, and exactly the rest when it has none.

        The guest's own counter (UDP RcvbufErrors), the figures and the ledger's row at the guest's stack have to agree;
        kept are the first packets. The pause itself shows as an interruption of the answers.

        :avocado: tags=mechanism:none,vhost:on,queues:1,instrument:faults
        """
        with self.given_guest("cpr", vhost=True, role=Role.CHECKS) as case:
            agent, bench = case.guest.agent, FaultBench(case)

            def pause_for_a_while(session: TrafficSession) -> None:
                session.wait_for_answers(50, Deadline(20, "answers before the pause"))
                agent.pause_reflector()
                time.sleep(PAUSE_S)  # the pause itself, not a wait for something
                agent.pause_reflector(paused=False)

            def resume_when_sent(session: TrafficSession) -> None:
                session.wait_sent(Deadline(30, "the stream to be sent"))
                agent.pause_reflector(paused=False, receive_buffer=USUAL_BUFFER)

            for _ in range(self.parameters.fault_repeats):
                run = bench.run(during=pause_for_a_while)
                longest = run.result.interruption_return.high_ms or 0.0
                shown = longest >= PAUSE_S * 1000
                bench.compare(
                    "paused-with-room",
                    run,
                    Injected(FORWARD),
                    "" if shown else f"a pause of {PAUSE_S * 1000:.0f} ms shows as {longest:.0f} ms",
                )
                run = bench.run(
                    packets=200,
                    prepare=lambda: agent.pause_reflector(receive_buffer=SMALL_BUFFER),
                    during=resume_when_sent,
                    expecting=lambda: 200 - agent.reflector().socket_drops,
                )
                dropped = run.moved["guest.udp_rcvbuf_errors"]
                missing = run.result.flows[0].forward.missing
                bench.compare(
                    "paused-without-room",
                    run,
                    Injected(FORWARD, "guest stack", None, dropped, reason="guest.udp_rcvbuf_errors"),
                    "" if 0 < dropped < 200 else f"the guest's socket dropped {dropped} of 200",
                    "" if missing == tuple(range(200 - dropped, 200)) else "kept are not the first ones",
                )
            bench.conclude()

    def test_senseless_packets_are_counted_and_change_no_figure(self) -> None:
        """Nonsense, foreign and truncated packets at both ends are ignored and counted; a known loss stays exact.

        Sent into the running stream from the guest's side: answers to packets never sent, answers with a wrong time
        stamp, truncated and foreign ones, fragments, other protocols; from the station's side: short and corrupt test
        packets, sessions of others, wrong checksums. Beside it every 8th test packet is dropped.

        :avocado: tags=mechanism:none,vhost:on,queues:1,instrument:faults
        """
        with self.given_guest("cpr", vhost=True, role=Role.CHECKS) as case:
            topology, bench = case.guest.topology, FaultBench(case)
            for _ in range(self.parameters.fault_repeats):
                numbers = Numbers(Packet.TEST, bench.next_port)
                lost = numbers.among(bench.packets)
                frames = SenselessFrames(bench.next_port)

                def send_them(session: TrafficSession, frames: SenselessFrames = frames) -> None:
                    session.wait_for_answers(50, Deadline(20, "answers before the nonsense"))
                    frames.send(topology)

                with faults.drop(topology.switch, PORT, Side.INGRESS, numbers):
                    run = bench.run(during=send_them, answers=bench.packets - len(lost))
                injected = Injected(FORWARD, "switch", lost)
                bench.compare("senseless-packets", run, injected, *frames.differences(run.result, run.reflector))
            bench.conclude()
