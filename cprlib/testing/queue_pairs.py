"""Change the number of queue pairs that the guest uses, and check which of them carry packets."""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import received_per_queue
from cprlib.testing.nic_view import read_tap_view
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.session import TrafficSession

FLOWS_PER_QUEUE = 12  # kernels select a flow's queue by hash: 48 flows miss one of 4 queues in 1 of 250,000 cases


@dataclass(slots=True)
class QueuePairs:
    """The queue pairs of a case's guest.

    :param rate: packets/s of an exchange; :param seconds: its length.
    """

    case: MeasuredCase
    rate: float = 500.0
    seconds: float = 0.5

    def use(self, pairs: int, when: str) -> None:
        """``ethtool -L eth0 combined N`` in the guest; check that as many queues of the tap are attached in the kernel.

        :param when: for the check's name: ``after-update``.
        """
        guest = self.case.guest
        used = guest.agent.set_queue_pairs(pairs)
        attached = read_tap_view(guest.topology, guest.machine).attached
        self.case.expect(
            f"{pairs}-pairs-{when}",
            used == attached == pairs,
            f"{pairs} queue pairs used by the guest, as many queues attached in the kernel",
            f"{used} used by the guest, {attached} attached",
            f"{pairs} queue pairs were requested, the guest uses {used}, but {attached} tap queues are attached",
        )

    def exchange(self, pairs: int, when: str) -> None:
        """Send test packets on many flows; check that none is lost and only the queue pairs in use carry packets.

        :param pairs: number of queue pairs in use.
        """
        case = self.case
        station = case.guest.topology.station
        count = FLOWS_PER_QUEUE * pairs
        flows = flows_between(count=count, first_port=case.ports.take(count))
        before = received_per_queue(case.guest.agent.network().nic())
        settings = StreamSettings(rate=self.rate, duration_s=self.seconds)
        with TrafficSession(station, flows, settings, keep_frames=0) as session:
            session.wait_sent(Deadline(self.seconds + 20, "test packets to be sent"))
            session.finish(linger_s=1.0)
        result = session.result()
        after = received_per_queue(case.guest.agent.network().nic())
        carried = {queue: count - before.get(queue, 0) for queue, count in after.items()}
        case.expect(
            f"traffic-{when}",
            result.lost == 0,
            f"{result.sent} packets sent, all answered",
            f"{result.lost} lost",
            f"{result.lost} of {result.sent} packets lost with {pairs} queue pairs {when.replace('-', ' ')}",
        )
        idle = [queue for queue in range(pairs) if not carried.get(queue)]
        unexpected = [queue for queue, count in carried.items() if queue >= pairs and count]
        if not after:
            case.inconclusive(
                f"queues-carry-{when}", "packets on each queue pair", "the guest has no counters per queue"
            )
            return
        share = ", ".join(f"{queue}: {carried.get(queue, 0)}" for queue in range(pairs))
        case.expect(
            f"queues-carry-{when}",
            not idle and not unexpected,
            f"packets on the first {pairs} queue pairs, none on others",
            f"packets by queue: {share}",
            f"queue pairs {idle} carry no packets, {unexpected} carry packets but are not in use",
        )
