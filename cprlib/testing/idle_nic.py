"""A quiet NIC: single packets each way on every queue, and what QEMU and the guest do when there is nothing to do.

In a stream, the next packet hides a notification that was lost: the receiver finds both packets. A packet that comes
alone shows it. A QEMU that polls, or reschedules itself for ever, takes processor time at rest.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial

from cprlib.deadline import Deadline, timeout_scale
from cprlib.evidence.counter_checks import notifications
from cprlib.evidence.records import Check, Outcome
from cprlib.guest.agent import AgentConnection
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.procfs import task_use, use_between
from cprlib.linux.topology import STATION
from cprlib.traffic.flow import Flow
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, Listener, Probes
from cprlib.traffic.stamp import MINIMUM_SIZE

ROUNDS, MOST_ROUNDS = 3, 10  # packets on each queue, more while they are slow; the shortest delay counts
MOST_LOST = 3  # of them; one may be lost to a wait of TRAFFIC_ANSWER_S when the machine stands still
QUIET_S = 0.02  # between two of them
LATE_MS = 5000.0  # one so late may have waited for another packet: the next ones have to be in time
SLOWER, SLACK_MS = 5.0, 300.0  # the delay after an update is at most SLOWER times that before, plus SLACK_MS
FAST_MS = 100.0
REST_S = 0.2  # one period of rest
MIN_PERIODS, MAX_PERIODS = 3, 15  # more than the minimum while the quietest of them used more than AT_REST
AT_REST = 0.1  # of a processor
BUSY_SHARE = 0.5  # of a processor, beyond what was used before
SWITCHES, INTERRUPTS = 500.0, 100.0  # per second, beyond three times as many as before

Delays = Mapping[str, float | None]
"""Of single packets, in ms: the shortest by flow or port; None where a packet was not answered or did not arrive."""


def time_single_packets(
    station: NetworkNamespace,
    agent: AgentConnection,
    flows: Sequence[Flow],
    ports: Sequence[int],
    before: Delays | None = None,
) -> Delays:
    """Send single packets from the station, each when the one before is answered, and one from each port of the guest.

    :param flows: one on each queue at least; their source ports must be free.
    :param ports: source ports in the guest, by which its kernel chooses the queue.
    :param before: the delays before an update. Packets slower than these allow are sent again: load delays some
        packets, a defect delays all. In each direction the first queue with a defect is the last.
    """
    delays: dict[str, float | None] = {}
    for flow in flows:
        title = f"to the guest, {flow.name}"
        with Probes(station, (flow,)) as probes:
            delays[title] = _shortest(partial(_round_trip, probes), _limit_ms(before, title))
        if before and not _good(delays[title], _limit_ms(before, title)):
            break
    sizes = itertools.count(MINIMUM_SIZE)
    with Listener(station, STATION.ipv4) as listener:
        for port in ports:
            title = f"from the guest's port {port}"
            send = partial(_send_from_guest, listener, agent, port, sizes)
            delays[title] = _shortest(send, _limit_ms(before, title), FAST_MS)
            if before and not _good(delays[title], _limit_ms(before, title)):
                break
    return delays


def _good(delay_ms: float | None, limit_ms: float) -> bool:
    return delay_ms is not None and delay_ms <= limit_ms


def _limit_ms(before: Delays | None, title: str) -> float:
    """The longest delay after an update; infinite before one."""
    return math.inf if before is None else SLOWER * (before[title] or 0.0) + SLACK_MS


def _shortest(send: Callable[[], float | None], limit_ms: float, fast_ms: float = 0.0) -> float | None:
    """The shortest delay in ms of packets that are sent one after the other; None when too many are lost.

    After one that is late or lost, the next ones all have to be in time.

    :param send: sends a packet; its delay in ms, None when it is lost.
    :param limit_ms: further packets are sent while all are slower.
    :param fast_ms: one packet as fast as this is enough, unless one before was late or lost.
    """
    in_time: list[float] = []
    late: list[float | None] = []
    for _ in range(MOST_ROUNDS):
        time.sleep(QUIET_S)
        delay = send()
        if delay is None or delay > LATE_MS * timeout_scale():
            in_time = []
            late.append(delay)
            if late.count(None) == MOST_LOST:
                return None
            continue
        in_time.append(delay)
        shortest = min(in_time)
        if (len(in_time) >= ROUNDS and shortest <= limit_ms) or (not late and shortest <= fast_ms):
            return shortest
    if len(in_time) >= ROUNDS:
        return min(in_time)
    return None if None in late else max(filter(None, late))


def _round_trip(probes: Probes) -> float | None:
    sent_ns = time.time_ns()
    probes.send()
    if probes.count_missing(Deadline(TRAFFIC_ANSWER_S, "an answer")) or probes.first_answer_ns is None:
        return None
    return (probes.first_answer_ns - sent_ns) / 1e6


def _send_from_guest(listener: Listener, agent: AgentConnection, port: int, sizes: Iterator[int]) -> float | None:
    """The delay of a packet from a port of the guest.

    :param sizes: an own one for each packet: one that is given up may come while the next is waited for.
    """
    asked_ns, size = time.time_ns(), next(sizes)
    agent.start_stream(STATION.ipv4, 1000, count=1, size=size, port=listener.port, source_port=port)
    arrived_ns = listener.wait(Deadline(TRAFFIC_ANSWER_S, "a single packet"), size)
    agent.reset_streams()  # frees the port; streams of a later test start at 0
    return None if arrived_ns is None else (arrived_ns - asked_ns) / 1e6


def single_packets_check(before: Delays, after: Delays) -> Check:
    """Every single packet arrives after the update, about as fast as before.

    Inconclusive when one was lost before, or so late that a delay could not be seen.
    """
    name, expected = "single-packets-arrive", "single packets on the quiet NIC arrive, about as fast as before"
    lost = [title for title, delay in before.items() if not _good(delay, LATE_MS * timeout_scale())]
    if lost:
        return Check(name, Outcome.INCONCLUSIVE, expected, f"lost or late before the update: {', '.join(lost)}")
    problems = []
    for title, delay in after.items():
        earlier = before[title] or 0.0
        if delay is None:
            problems.append(f"none within {TRAFFIC_ANSWER_S:.0f} s: {title}")
        elif delay > _limit_ms(before, title):
            problems.append(f"{delay:.1f} ms instead of {earlier:.1f} before: {title}")
    ways = [max((ms for ms in each.values() if ms is not None), default=0.0) for each in (before, after)]
    observed = f"{len(after)} ways, the slowest {ways[0]:.1f} ms before and {ways[1]:.1f} ms after"
    meaning = f"a packet that comes alone is not delivered at once: {'; '.join(problems)}"
    return Check.of(name, not problems, expected, observed, meaning)


@dataclass(frozen=True, slots=True)
class IdleLoad:
    """The load of QEMU and the NIC while nothing is sent: the lowest figures of some short periods.

    :param processors: that the threads of QEMU used; 1 is all of one processor.
    :param switches: context switches of these threads, per second; :param interrupts: of the guest's NIC, per second.
    """

    processors: float
    switches: float
    interrupts: float


def measure_idle_load(pid: int, agent: AgentConnection) -> IdleLoad:
    """Watch a QEMU and its guest until they are at rest, for 3 s at most.

    The lowest figures count: work that was left from before ends, and a lab counts time that its host took from it as
    used, in bursts of up to half a second. A QEMU that polls is busy in each period.
    """
    periods: list[IdleLoad] = []
    while len(periods) < MIN_PERIODS or (
        len(periods) < MAX_PERIODS and min(period.processors for period in periods) > AT_REST
    ):
        periods.append(_watch_period(pid, agent))
    return IdleLoad(
        min(period.processors for period in periods),
        min(period.switches for period in periods),
        min(period.interrupts for period in periods),
    )


def _watch_period(pid: int, agent: AgentConnection) -> IdleLoad:
    seen, began = agent.network().nic(), time.monotonic()
    first = task_use(pid)
    time.sleep(REST_S)  # the measurement itself
    used, seconds = use_between(first, task_use(pid)), time.monotonic() - began
    interrupts = notifications(agent.network().nic()).interrupts - notifications(seen).interrupts
    return IdleLoad(used.run_ns / seconds / 1e9, used.switches / seconds, interrupts / seconds)


def idle_checks(before: IdleLoad, after: IdleLoad) -> Iterator[Check]:
    """QEMU and the guest's NIC are as quiet as before."""
    rows = (
        ("processor-time-at-rest", "of a processor", 1, BUSY_SHARE),
        ("context-switches-at-rest", "context switches per second", 3, SWITCHES),
        ("interrupts-at-rest", "interrupts of the guest's NIC per second", 3, INTERRUPTS),
    )
    for (name, unit, factor, floor), earlier, later in zip(rows, astuple(before), astuple(after), strict=True):
        yield Check.of(
            name,
            later <= factor * earlier + floor,
            f"at most {factor * earlier + floor:.2f} {unit}, by what was used before the update",
            f"{earlier:.2f} before, {later:.2f} after",
            f"{later:.2f} {unit} while the NIC was quiet, {earlier:.2f} before the update",
        )
