"""Flows for every queue of a multi-queue NIC.

A guest hashes its answers over its queues, and the tap sends a flow to the queue that its answers come from
(tun_flow_update(), drivers/net/tun.c): a flow uses one queue, and which one is known only when it has been tried. So
flows are tried until every queue in use has one.
"""

from __future__ import annotations

from collections.abc import Iterable

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.guest.replies import NicInfo
from cprlib.traffic.flow import Flow
from cprlib.traffic.probes import warm_up
from cprlib.update.running_guest import RunningGuest

TRIED_PER_QUEUE = 12  # flows tried for each queue: with four queues one stays without in 1 of 250,000 cases
WARM_UP_S = 10.0


def flows_on_every_queue(guest: RunningGuest, candidates: Iterable[Flow], wanted: int) -> tuple[Flow, ...]:
    """Try flows until there is one for each queue pair in use, and warm those up.

    :param candidates: flows to try, in this order.
    :param wanted: flows to choose; at least one. Where the guest's kernel does not tell queues apart, or some queue
        is never hit, the first ones tried fill up the number.
    :returns: as many flows as wanted (fewer when there are not so many candidates), in the order of trying.
    :raises DeadlineExceeded: the guest does not answer.
    """
    station = guest.topology.station
    tried: list[Flow] = []
    by_queue: dict[str, Flow] = {}
    before = guest.agent.network().nic()
    queues = min(wanted, before.channels)
    for flow in candidates:
        warm_up(station, (flow,), _patience())
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
    warm_up(station, chosen, _patience())  # again, before they are used: the tap forgets a flow after 3 s of silence
    return tuple(sorted(chosen, key=lambda flow: flow.source_port))


def _patience() -> Deadline:
    return Deadline(WARM_UP_S, "the guest to answer", Awaited.GUEST)


def _busiest(before: NicInfo, after: NicInfo) -> str:
    """The transmit queue that carried most between two looks: that of the flow tried."""
    moved = {
        name: count - before.queue_packets.get(name, 0)
        for name, count in after.queue_packets.items()
        if name.startswith("tx")
    }
    return max(moved, key=lambda name: moved[name])
