"""Choose flows so that every queue of a multi-queue NIC carries one.

A guest hashes its answers over its queues, and the tap sends a flow to the queue that its answers come from
(tun_flow_update(), drivers/net/tun.c). Only a trial shows which queue a flow uses.
"""

from __future__ import annotations

from collections.abc import Iterable

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.guest.replies import NicInfo
from cprlib.traffic.flow import Flow
from cprlib.traffic.probes import warm_up
from cprlib.update.running_guest import RunningGuest

TRIED_PER_QUEUE = 12  # with four queues, one of them gets no flow in 1 of 250,000 cases
WARM_UP_S = 10.0


def flows_on_every_queue(guest: RunningGuest, candidates: Iterable[Flow], wanted: int) -> tuple[Flow, ...]:
    """Try flows until there is one for each queue pair in use, and warm those up.

    :param candidates: flows to try, in this order.
    :param wanted: number of flows to choose, at least one. Where the guest's kernel has no counters by queue, or a
        queue gets no flow, the first candidates complete the number.
    :returns: the chosen flows, fewer than ``wanted`` when there are fewer candidates, in the order of the trials.
    :raises DeadlineExceeded: the guest does not answer.
    """
    station = guest.topology.station
    tried: list[Flow] = []
    by_queue: dict[str, Flow] = {}
    before = guest.agent.network().nic()
    queues = min(wanted, before.channels)
    for flow in candidates:
        warm_up(station, (flow,), _deadline())
        tried.append(flow)
        if queues <= 1 or not before.queue_packets:
            if len(tried) >= wanted:
                return tuple(tried)
            continue
        after = guest.agent.network().nic()
        by_queue.setdefault(_busiest(before, after), flow)
        before = after
        if len(by_queue) >= queues and len(tried) >= wanted:
            break
        if len(tried) >= wanted * TRIED_PER_QUEUE:
            break
    chosen = list(by_queue.values())
    chosen += [flow for flow in tried if flow not in chosen][: wanted - len(chosen)]
    warm_up(station, chosen, _deadline())  # again, as the tap forgets a flow after 3 s without packets
    return tuple(sorted(chosen, key=lambda flow: flow.source_port))


def _deadline() -> Deadline:
    return Deadline(WARM_UP_S, "the guest to answer", Awaited.GUEST)


def _busiest(before: NicInfo, after: NicInfo) -> str:
    """The transmit queue that carried most packets between two readings: that of the tried flow."""
    moved = {
        name: count - before.queue_packets.get(name, 0)
        for name, count in after.queue_packets.items()
        if name.startswith("tx")
    }
    return max(moved, key=lambda name: moved[name])
