"""netem's faults are counted exactly, and the kernel's drop events match their packets; needs a kernel with netem."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from cprlib.deadline import Deadline
from cprlib.linux.namespace import NetworkNamespace
from cprlib.traffic.figures import Direction, HopName
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.kernel_drops import DropReport, DropTrace
from cprlib.traffic.ledger import make_ledger
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession

from .reflector_process import reflector_process
from .veth import INTERFACE, Pair, veth_pair_or_skip

pytestmark = pytest.mark.fast

PACKETS = 2000


@contextlib.contextmanager
def netem(namespace: NetworkNamespace, **settings: float | str) -> Iterator[None]:
    """A netem queue at the egress of a namespace; the test is skipped where the kernel has none."""
    index = namespace.index(INTERFACE)
    try:
        namespace.netlink.tc("add", "netem", index, "1:", **settings)
    except NetlinkError as error:
        pytest.skip(f"this kernel has no netem ({error}): run it in the lab")
    yield


def end_of(pair: Pair, direction: Direction) -> NetworkNamespace:
    """The end that sends in a direction; netem works on egress."""
    return pair.station if direction is Direction.FORWARD else pair.guest


def queue_statistics(namespace: NetworkNamespace) -> tuple[int, int]:
    """Packets that left the queue, and packets dropped there."""
    for message in namespace.netlink.get_qdiscs(index=namespace.index(INTERFACE)):
        statistics = message.get_attr("TCA_STATS2")
        if statistics is not None and message.get_attr("TCA_KIND") == "netem":
            return int(statistics.get_attr("TCA_STATS_BASIC")["packets"]), int(
                statistics.get_attr("TCA_STATS_QUEUE")["drops"]
            )
    raise AssertionError("no statistics of netem")


def measure(pair: Pair, linger_s: float = 0.5) -> tuple[TrafficResult, DropReport]:
    with reflector_process(pair.guest) as reflector, DropTrace() as trace:
        with TrafficSession(pair.station, flows_between(), StreamSettings(1000, count=PACKETS)) as session:
            session.wait_sent(Deadline(60, "the stream to be sent"))
            session.finish(linger_s=linger_s)
        drops = trace.report()
        log = reflector.finish()
    return session.result(log, reflector_drops=reflector.dropped), drops


@pytest.mark.parametrize("direction", list(Direction))
def test_loss_by_netem_is_counted_exactly_and_seen_by_the_kernel(direction: Direction) -> None:
    with veth_pair_or_skip() as pair:
        end = end_of(pair, direction)
        with netem(end, loss=5):
            result, drops = measure(pair)
            _, dropped = queue_statistics(end)
    # MLD reports of the kernel pass the queue too: netem may have dropped one of them.
    lost = {Direction.FORWARD: result.lost_forward, Direction.RETURN: result.lost_return}
    assert 0 < dropped - 2 <= lost[direction] <= dropped
    assert sum(lost.values()) == result.lost == lost[direction]
    if not drops.unavailable:
        ledger = make_ledger(result, (), drops)
        assert ledger.missing == result.lost
        assert [row for row in ledger.rows if row.hop == HopName.UNEXPLAINED] == []


@pytest.mark.parametrize("direction", list(Direction))
def test_copies_by_netem_are_duplicates(direction: Direction) -> None:
    with veth_pair_or_skip() as pair, netem(end_of(pair, direction), duplicate=5):
        result, _ = measure(pair)
    assert result.lost == 0
    copies = result.flows[0].answers - PACKETS
    forward, back = result.duplicates.forward, result.duplicates.return_
    assert (forward, back) == ((copies, 0) if direction is Direction.FORWARD else (0, copies))
    assert copies > 0


@pytest.mark.parametrize("direction", list(Direction))
def test_packets_delayed_by_netem_are_reordered_and_not_lost(direction: Direction) -> None:
    with veth_pair_or_skip() as pair, netem(end_of(pair, direction), delay=20_000, jitter=10_000):
        result, _ = measure(pair, linger_s=3.0)
    assert result.lost == 0
    reordered = {Direction.FORWARD: result.reordered.forward, Direction.RETURN: result.reordered.return_}
    assert (reordered[direction] or 0) > 0
    assert result.duplicates.forward == result.duplicates.return_ == 0
