"""Injected faults on the path, without an update: the instrument must count each exactly and name the right hop."""

from __future__ import annotations

from functools import partial

from cprlib.evidence.records import Role
from cprlib.linux import packet_faults as faults
from cprlib.linux.counters import QdiscSide
from cprlib.linux.packet_faults import PacketFault, PacketSelection, StampPacket
from cprlib.linux.topology import PORT, STATION_INTERFACE, Topology
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.traffic.figures import Direction
from injected_faults import PathFault, PathFaultBench, StoppedGuest

FORWARD, RETURN = Direction.FORWARD, Direction.RETURN
DELAY_US = 40_000  # at 1,000 packets/s about 40 packets overtake a delayed one
KEPT = 10  # packets, of a tap queue


def _passed(fault: PacketFault, sent: int) -> int:
    return sent - fault.count().dropped


def _unequal(fault: PacketFault, injected: int) -> str:
    """The difference when the queue counted another number."""
    dropped = fault.count().dropped
    return "" if dropped == injected else f"the queue dropped {dropped} instead of {injected}"


class KnownFaults(LiveUpdateTest):
    """vhost with one queue; every fault is injected ``fault_repeats`` times on one guest."""

    timeout = 1200

    def test_network_faults_are_counted_and_located(self) -> None:
        """Loss, duplication and reordering injected at each hop in each direction are reported exactly, with the hop.

        A filter on the sequence number drops every 8th packet, so that each lost packet is known in advance: sequence
        numbers, hop, direction and count must be the same, and the queue that dropped them must agree. netem drops at
        random, as many as its own counter says. It duplicates every 16th packet and delays every 64th, which is no
        loss. A tap queue of 10 packets under a stopped guest keeps the first 10: loss forward, the tap's tx_dropped and
        the ledger's row (FULL_RING, between STOP and RESUME) are the same number.

        :avocado: tags=mechanism:none,vhost:on,queues:1,instrument:faults
        """
        with self.given_guest(GuestSpec(vhost=True, role=Role.CHECKS)) as case, case.control_step():
            bench = PathFaultBench(case)
            for _ in range(self.parameters.fault_repeats):
                self._losses(bench, case.guest.topology, case.guest.tap)
                self._duplicates_and_reordering(bench, case.guest.topology)
                self._short_queue(bench)
            bench.add_checks()

    def _losses(self, bench: PathFaultBench, topology: Topology, tap: str) -> None:
        for name, hop, direction, namespace, interface, side in (
            ("loss-leaving-the-station", "station", FORWARD, topology.station, STATION_INTERFACE, QdiscSide.EGRESS),
            ("loss-entering-the-switch", "switch", FORWARD, topology.switch, PORT, QdiscSide.INGRESS),
            ("loss-leaving-for-the-tap", "tap queue", FORWARD, topology.switch, tap, QdiscSide.EGRESS),
            ("loss-arriving-from-the-tap", "switch", RETURN, topology.switch, tap, QdiscSide.INGRESS),
            ("loss-leaving-the-switch", "switch", RETURN, topology.switch, PORT, QdiscSide.EGRESS),
        ):
            packet = StampPacket.TEST if direction is FORWARD else StampPacket.ANSWER
            numbers = PacketSelection(packet, bench.next_port)
            lost = numbers.among(bench.packets)
            with faults.drop(namespace, interface, side, numbers) as fault:
                run = bench.run(answers=bench.packets - len(lost))
                bench.compare(name, run, PathFault(direction, hop, lost), _unequal(fault, len(lost)))
            if side is QdiscSide.INGRESS:
                continue  # netem works on egress only
            numbers = PacketSelection(packet, bench.next_port, every=1, first=0)
            with faults.disturb(namespace, interface, numbers, loss=10) as fault:
                run = bench.run(expecting=partial(_passed, fault, bench.packets))
                injected = PathFault(direction, hop, fault.count().dropped)
            bench.compare(f"random-{name}", run, injected)

    def _duplicates_and_reordering(self, bench: PathFaultBench, topology: Topology) -> None:
        for name, direction, namespace, interface, packet in (
            ("forward", FORWARD, topology.station, STATION_INTERFACE, StampPacket.TEST),
            ("return", RETURN, topology.switch, PORT, StampPacket.ANSWER),
        ):
            numbers = PacketSelection(packet, bench.next_port, every=16)
            hit = len(numbers.among(bench.packets))
            with faults.disturb(namespace, interface, numbers, duplicate=100) as fault:
                run = bench.run(answers=bench.packets + hit)
                copies = fault.count().passed - hit
            difference = "" if copies == hit else f"netem made {copies} copies of {hit}"
            bench.compare(f"duplicates-{name}", run, PathFault(direction, duplicates=hit), difference)
            numbers = PacketSelection(packet, bench.next_port, every=64)
            with faults.disturb(namespace, interface, numbers, delay=DELAY_US):
                run = bench.run()
            bench.compare(f"reordered-{name}", run, PathFault(direction, reordered=len(numbers.among(bench.packets))))

    def _short_queue(self, bench: PathFaultBench) -> None:
        guest, pause, packets = bench.guest, StoppedGuest(bench.guest.machine), 200
        with bench.tap_queue_length(KEPT):
            run = bench.run(
                packets=packets,
                prepare=pause.stop,
                during=pause.resume_when_sent,
                answers=KEPT,
                stops=pause.stops,
            )
        lost, dropped = tuple(range(KEPT, packets)), run.deltas["tap.tx_dropped"]
        bench.compare(
            "short-queue-under-a-stopped-guest",
            run,
            PathFault(FORWARD, "tap queue", lost, reason="FULL_RING", moment="after STOP, before RESUME"),
            "" if dropped == len(lost) else f"{guest.tap} counted {dropped} dropped",
        )
