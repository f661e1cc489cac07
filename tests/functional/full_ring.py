"""Full receive rings: packets that wait in the tap or in QEMU are delivered afterwards."""

from __future__ import annotations

import bisect
import contextlib
import math
import re
import socket
import time
from collections.abc import Iterator

from big_packets import came_back, connected_to_reflector, stamp_datagrams
from cprlib.deadline import Deadline, timeout_scale
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.qemu.nic_state import GUEST_CSUM, GUEST_USO4, MRG_RXBUF, RING_PACKED, receive_buffers, receive_ring_size
from cprlib.qemu.vmstate import device_state
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.parameters import SuiteParameters
from cprlib.traffic.control_run import capture_problems
from cprlib.traffic.flow import IP_HEADER, UDP_HEADER, StreamSettings, flows_between
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, warm_up
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession
from cprlib.update.events import Step
from cprlib.update.hooks import RecordMainChannel

WAITING = 200  # packets that have no room in the ring, at the most
RATE = 3000.0  # packets/s
# between two looks of the driver, ms: longer than it takes until the guest stops
SHORT_MS, FAILED_UPDATE_MS, UPDATE_MS = 1500, 3000, 4000
ARRIVE_S = 5.0
PAGE, DATAGRAM, DATAGRAMS = 4096, 1400, 8  # bytes, of a datagram at the most; they are one packet for the NIC
UDP_SEGMENT = 103  # linux/udp.h
WAITING_BYTES = re.compile(r"tap/.*/waiting")  # a field of vmstate_tap_waiting, net/tap.c, patch 12
FREE_BUFFERS = 2  # too few for that packet, which takes several
QUEUES = 2
# for fill_ring(): how long the guest leaves its rings full, in ms; a part of it, in s, in which they fill up
FILLED_MS, FILL_S = 9000, 6.0
FULL_S = 0.5  # a ring that is full for so long stays so: the driver, which takes 64 packets at a time, waits
LONGEST_MS = 60000  # that the guest's agent accepts
SENDERS, PACKET, BURST = 24, 64, 20  # sockets, some of which have a flow of each queue; bytes; packets of each


def buffers_are_known(case: MeasuredCase, *checks: str) -> bool:
    """Whether QEMU reports the buffers of a receive ring (:func:`receive_buffers`).

    :param checks: names of those that are skipped otherwise.
    """
    known = not case.guest.agent.network().nic().agreed_on(RING_PACKED)
    for name in () if known else checks:
        case.skip_check(name, "packets wait for a full ring", "QEMU does not report the buffers of a packed ring")
    return known


def waiting_packets(parameters: SuiteParameters) -> int:
    """How many packets wait in the tap, whose queue has room for them and for as many others."""
    return max(1, min(WAITING, parameters.queue_length // 2))


def datagram_bytes(parameters: SuiteParameters) -> int:
    """The size of a datagram; the kernel sends no segment that is larger than the MTU (udp_send_skb())."""
    return min(DATAGRAM, parameters.path_mtu - IP_HEADER[4] - UDP_HEADER)


@contextlib.contextmanager
def full_ring(
    case: MeasuredCase, when: str, *, wait_ms: int = SHORT_MS, only_one_waits: bool = False
) -> Iterator[None]:
    """The body runs while the receive ring of the guest's queue pair is full and packets wait; in the end all arrive.

    :param when: for the checks' names: ``across-an-update``.
    :param wait_ms: how long the guest leaves it full, in ms of its clock.
    :param only_one_waits: one packet waits, and none follows it; without vhost, in a ring whose buffers are known.
    """
    agent, station = case.guest.agent, case.guest.topology.station
    flows = flows_between(count=1, first_port=case.ports.take())
    updates = len(case.guest.updates)
    warm_up(station, flows, Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST))
    _defer_receiving(case, wait_ms)
    # the driver waits from its next poll, which takes all that has come: one packet
    warm_up(station, flows, Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST), round_trips=1)
    qmp = case.guest.machine.qmp
    room = receive_buffers(qmp) if only_one_waits else receive_ring_size(qmp)
    waiting = 1 if only_one_waits else waiting_packets(case.parameters)
    settings = StreamSettings(rate=RATE, count=room + waiting)
    with TrafficSession(station, flows, settings, keep_frames=0) as session:
        session.wait_sent(Deadline(10, "a burst of packets to be sent"))
        full_ns = time.time_ns()
        yield
        stops = [update.times_ns[Step.STOP] for update in case.guest.updates[updates:] if Step.STOP in update.times_ns]
        until_ns = max(stops, default=time.time_ns())
        with contextlib.suppress(DeadlineExceeded):  # what is missing is counted below
            session.wait_for_answers(session.progress().sent, Deadline(wait_ms / 1000 + ARRIVE_S, "the answers"))
        session.finish()
    agent.defer_receiving(0)
    _judge(case, when, room, session.result(), full_ns, until_ns)


def fill_ring(case: MeasuredCase, pair: int) -> None:
    """Fill the receive ring of a queue pair, and send more, without vhost. The guest does not answer for some seconds.

    A macvtap keeps a sender waiting when it is full, so these packets are no measured stream. A ring whose buffers are
    not known is left as it is.

    :param pair: number of the queue pair.
    """
    if not buffers_are_known(case, "ring-full"):
        return
    qmp = case.guest.machine.qmp
    _defer_receiving(case, FILLED_MS)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connected_to_reflector(case)) for _ in range(SENDERS)]

        full_since = math.inf

        def was_full() -> bool:
            nonlocal full_since
            full_since = math.inf if receive_buffers(qmp, pair) else min(full_since, time.monotonic())
            for opened in sockets:
                with contextlib.suppress(BlockingIOError):
                    for _ in range(BURST):
                        opened.send(bytes(PACKET), socket.MSG_DONTWAIT)
            return time.monotonic() - full_since >= FULL_S

        with contextlib.suppress(DeadlineExceeded):  # required below
            Deadline(FILL_S, "a full ring", Awaited.GUEST).poll(was_full, 0.01)
    buffers = receive_buffers(qmp, pair)
    case.require("ring-full", not buffers, f"the ring of queue pair {pair} is full", f"{buffers} buffers")


@contextlib.contextmanager
def large_packet_waits(case: MeasuredCase, when: str) -> Iterator[RecordMainChannel]:
    """The body updates a guest whose ring is full, while a packet larger than a page waits; it arrives unchanged.

    These are datagrams that the guest's NIC takes in one piece (UDP_SEGMENT, udp(7)). Without vhost, in a ring whose
    buffers are known. The hook that this returns has to be one of the update's.

    :param when: for the checks' names.
    """
    agent, station, machine = case.guest.agent, case.guest.topology.station, case.guest.machine
    if not agent.network().nic().agreed_on(GUEST_CSUM, GUEST_USO4):
        expected, lacking = "a packet that is larger than a page arrives", "VIRTIO_NET_F_GUEST_CSUM or _GUEST_USO4"
        case.skip_check(f"large-packet-arrives-{when}", expected, f"the guest's NIC is without {lacking}")
        yield RecordMainChannel()
        return
    (flow,) = flows_between(count=1, first_port=case.ports.take())
    size = datagram_bytes(case.parameters)
    sent, recorded = stamp_datagrams(DATAGRAMS, size, seed=0), RecordMainChannel()
    with connected_to_reflector(case) as opened:
        opened.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        opened.settimeout(Deadline(UPDATE_MS / 1000 + ARRIVE_S, "the answers").remaining)
        _defer_receiving(case, UPDATE_MS)
        warm_up(station, [flow], Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST), round_trips=1)
        free = FREE_BUFFERS if agent.network().nic().agreed_on(MRG_RXBUF) else 0  # else each is for 64 KiB
        settings = StreamSettings(rate=RATE, count=receive_buffers(machine.qmp) - free)
        with TrafficSession(station, [flow], settings, keep_frames=0) as session:
            session.wait_sent(Deadline(10, "a burst of packets to be sent"))
            opened.send(b"".join(sent))
            yield recorded
            came = list[bytes]()
            with contextlib.suppress(TimeoutError):
                while len(came) < DATAGRAMS:
                    came.append(opened.recv(65536))
    agent.defer_receiving(0)
    state = device_state(recorded.stream)
    waiting = next((int(value, 16) for path, value in state.items() if WAITING_BYTES.fullmatch(path)), 0)
    name, expected = f"large-packet-waits-{when}", f"a packet of more than {PAGE} bytes waits"
    if not case.require(name, waiting > PAGE, expected, f"{waiting} bytes"):
        return
    good = sum(map(came_back, sent, came))
    meaning = "datagrams of this packet that came back unchanged"
    case.expect_equal(f"large-packet-arrives-{when}", good, DATAGRAMS, meaning)


def _defer_receiving(case: MeasuredCase, wait_ms: int) -> None:
    """Let the guest leave its rings full for so long, and for longer where deadlines are longer."""
    case.guest.agent.defer_receiving(min(round(wait_ms * timeout_scale()), LONGEST_MS))


def _judge(case: MeasuredCase, when: str, room: int, result: TrafficResult, full_ns: int, until_ns: int) -> None:
    """Say whether all packets arrived, and whether the ring was full as long as it had to be.

    :param room: buffers that the ring had for them.
    :param full_ns, until_ns: when all packets were sent, and when the guest stopped or the body ended (CLOCK_REALTIME).
    """
    (flow,) = result.flows
    answered = sorted(time_ns for time_ns in flow.returned_ns if time_ns is not None)
    at_first, at_last = (result.sent - bisect.bisect(answered, time_ns) for time_ns in (full_ns, until_ns))
    full = f"more than {room} of {result.sent} packets wait for the guest"
    seen = f"{at_first} waited at first, {at_last} at last"
    case.require(f"ring-full-{when}", at_last > room, full, seen, f"{seen}: the ring was not full all the time")
    expect_all_arrive(case, f"all-arrive-{when}", result, f"with a full receive ring {when.replace('-', ' ')}")


def expect_all_arrive(case: MeasuredCase, name: str, result: TrafficResult, situation: str) -> None:
    """Check that each packet was answered once.

    :param situation: ends the message.
    """
    missing = ", ".join(str(number) for flow in result.flows for number in flow.missing[:8])
    copies = sum(flow.answers for flow in result.flows) - (result.sent - result.lost)
    if result.lost and (problems := capture_problems(result)):
        case.inconclusive(name, f"each of {result.sent} packets answered once", "; ".join(problems))
        return
    case.expect(
        name,
        not result.lost and not copies,
        f"each of {result.sent} packets answered once",
        f"{result.lost} lost, {copies} duplicated",
        f"{result.lost} of {result.sent} packets lost (numbers {missing or 'none'}), {copies} duplicated, {situation}",
        family=name.partition("-across")[0].partition("-in-")[0],
    )
