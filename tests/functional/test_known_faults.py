"""Faults on purpose, without an update: the instrument has to count each exactly and to place it at the right hop."""

from __future__ import annotations

from functools import partial

from cprlib.net import faults
from cprlib.net.faults import Fault, Numbers, Packet
from cprlib.net.queue_drops import Side
from cprlib.net.topology import PORT, STATION_INTERFACE
from cprlib.traffic.hops import Direction
from cprlib.verdict.evidence import Role
from fixtures.injected_faults import FaultBench, Injected, StoppedGuest
from fixtures.live_update_test import LiveUpdateTest

FORWARD, RETURN = Direction.FORWARD, Direction.RETURN
LATE_US = 40_000  # at 1,000 packets/s some 40 others overtake a packet that is held back
KEPT = 10  # packets, of a tap queue


def _left(fault: Fault, sent: int) -> int:
    """Packets that a fault has let pass."""
    return sent - fault.count().dropped


def _unequal(fault: Fault, injected: int) -> str:
    """What is to be said when the queue counted another number."""
    dropped = fault.count().dropped
    return "" if dropped == injected else f"the queue dropped {dropped} instead of {injected}"


class KnownFaults(LiveUpdateTest):
    """vhost with one queue; every fault is injected ``fault_repeats`` times on one guest."""

    def test_injected_losses_are_placed_at_their_hop(self) -> None:
        """Every 8th packet dropped at each hop and in each direction is counted exactly and placed there.

        The drops are made by filters on the sequence number, so each lost packet is known beforehand: reported numbers,
        hop, direction and count have to be the same, and the queue that dropped them has to agree. Then netem drops at
        random, which only its own counter knows.

        :avocado: tags=mechanism:none,vhost:on,queues:1,instrument:faults
        """
        with self.given_guest("cpr", vhost=True, role=Role.CHECKS) as case:
            topology, bench = case.guest.topology, FaultBench(case)
            places = (
                ("loss-leaving-the-station", "station", FORWARD, topology.station, STATION_INTERFACE, Side.EGRESS),
                ("loss-entering-the-switch", "switch", FORWARD, topology.switch, PORT, Side.INGRESS),
                ("loss-in-front-of-the-tap", "tap queue", FORWARD, topology.switch, case.guest.tap, Side.EGRESS),
                ("loss-behind-the-tap", "switch", RETURN, topology.switch, case.guest.tap, Side.INGRESS),
                ("loss-leaving-the-switch", "switch", RETURN, topology.switch, PORT, Side.EGRESS),
            )
            for _ in range(self.parameters.fault_repeats):
                for name, hop, direction, namespace, interface, side in places:
                    packet = Packet.TEST if direction is FORWARD else Packet.ANSWER
                    numbers = Numbers(packet, bench.next_port)
                    lost = numbers.among(bench.packets)
                    with faults.drop(namespace, interface, side, numbers) as fault:
                        run = bench.run(answers=bench.packets - len(lost))
                        bench.compare(name, run, Injected(direction, hop, lost), _unequal(fault, len(lost)))
                for name, hop, direction, namespace, interface, side in places:
                    if side is Side.INGRESS:
                        continue  # netem sits on the way out
                    packet = Packet.TEST if direction is FORWARD else Packet.ANSWER
                    numbers = Numbers(packet, bench.next_port, every=1, first=0)
                    with faults.disturb(namespace, interface, numbers, loss=10) as fault:
                        run = bench.run(expecting=partial(_left, fault, bench.packets))
                        injected = Injected(direction, hop, None, fault.count().dropped)
                    bench.compare(f"random-{name}", run, injected)
            bench.conclude()

    def test_copies_and_late_packets_are_told_apart_from_losses(self) -> None:
        """Packets that netem copies or holds back are duplicates and reordered, in the right direction, and not lost.

        :avocado: tags=mechanism:none,vhost:on,queues:1,instrument:faults
        """
        with self.given_guest("cpr", vhost=True, role=Role.CHECKS) as case:
            topology, bench = case.guest.topology, FaultBench(case)
            ways = (
                ("forward", FORWARD, topology.station, STATION_INTERFACE, Packet.TEST),
                ("return", RETURN, topology.switch, PORT, Packet.ANSWER),
            )
            for _ in range(self.parameters.fault_repeats):
                for name, direction, namespace, interface, packet in ways:
                    numbers = Numbers(packet, bench.next_port, every=16)
                    hit = len(numbers.among(bench.packets))
                    with faults.disturb(namespace, interface, numbers, duplicate=100) as fault:
                        run = bench.run(answers=bench.packets + hit)
                        copies = fault.count().passed - hit
                    bench.compare(
                        f"copies-{name}",
                        run,
                        Injected(direction, copies=hit),
                        "" if copies == hit else f"netem made {copies} copies of {hit}",
                    )
                    numbers = Numbers(packet, bench.next_port, every=64)
                    hit = len(numbers.among(bench.packets))
                    with faults.disturb(namespace, interface, numbers, delay=LATE_US):
                        run = bench.run()
                    bench.compare(f"late-{name}", run, Injected(direction, late=hit))
            bench.conclude()

    def test_a_short_tap_queue_under_a_stopped_guest_keeps_the_first_packets(self) -> None:
        """A tap queue of 10 packets under a stopped guest keeps the first 10 and drops the rest, which are found.

        Kept and dropped are counted: lost forward, the tap's tx_dropped and the ledger's row at the tap queue (reason
        FULL_RING, between STOP and RESUME) have to be the same number.

        :avocado: tags=mechanism:none,vhost:on,queues:1,instrument:faults
        """
        with self.given_guest("cpr", vhost=True, role=Role.CHECKS) as case:
            bench = FaultBench(case, packets=200)
            case.guest.topology.set_tap_queue_length(case.guest.tap, KEPT)
            for _ in range(self.parameters.fault_repeats):
                pause = StoppedGuest(case.guest.machine)
                run = bench.run(prepare=pause.stop, during=pause.resume_when_sent, answers=KEPT, moments=pause.moments)
                lost = tuple(range(KEPT, bench.packets))
                dropped = run.moved["tap.tx_dropped"]
                bench.compare(
                    "short-queue-under-a-stopped-guest",
                    run,
                    Injected(FORWARD, "tap queue", lost, reason="FULL_RING", moment="after STOP, before RESUME"),
                    "" if dropped == len(lost) else f"the tap counted {dropped} dropped",
                )
            bench.conclude()
