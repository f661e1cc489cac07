"""Packets of the guest that the tap has no room for: answers that wait in the ring, and frames that wait in QEMU."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.linux.counters import read_counters
from cprlib.linux.descriptors import read_table
from cprlib.linux.supervised_calls import ALWAYS, WRITEV, FailingCall, SupervisedCalls, SystemCall
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import exchange_packets
from cprlib.testing.nic_view import set_link
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, warm_up
from cprlib.traffic.session import TrafficSession
from cprlib.update.events import Step
from full_ring import ARRIVE_S, RATE, expect_all_arrive

ANSWERS = 50  # of the guest that have no room in the send buffer; its transmit rings have room for them
FLOWS = 12  # of these answers, over all queues; the guest's kernel chooses a queue by a hash of the flow
SETTLED_S = 0.5  # without an announcement: the longest time between two of QEMU's is 350 ms (announce-step, QAPI)
SOCKETS = ("/proc/net/udp{,6}",)
WRITE_TO_TAP = SystemCall(WRITEV)  # tap_write_packet(), net/tap.c


@contextlib.contextmanager
def waiting_answers(
    case: MeasuredCase, calls: SupervisedCalls, *, answers: int = ANSWERS, flow_count: int = FLOWS
) -> Iterator[TrafficSession]:
    """The body runs while the tap takes no packet of the guest (EAGAIN), whose answers wait.

    A send buffer (netdev option ``sndbuf``) is full as long as another device keeps the packets; here the system call
    says so, until it is disarmed. QEMU tries again all the time then, which starves idle sources of its main loop: let
    the calls pass before anything is connected.

    :param calls: fails the calls of the guest's QEMU.
    """
    station = case.guest.topology.station
    flows = flows_between(count=flow_count, first_port=case.ports.take(flow_count))
    settings = StreamSettings(rate=RATE, count=answers)
    warm_up(station, flows, Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST))
    for tap in read_table(case.guest.machine.pid).of_kind("tap"):
        calls.arm(FailingCall(WRITE_TO_TAP, errno.EAGAIN, descriptor=tap.number, times=ALWAYS))
    case.guest.agent.reset_reflector()
    with TrafficSession(station, flows, settings, keep_frames=0) as session:
        session.wait_sent(Deadline(10, "a burst of packets to be sent"))
        _wait_answered(case, session)
        yield session


@contextlib.contextmanager
def full_send_buffer(
    case: MeasuredCase, calls: SupervisedCalls, when: str, *, answers: int = ANSWERS, flow_count: int = FLOWS
) -> Iterator[None]:
    """The body runs while :func:`waiting_answers` wait. In the end all of them arrive."""
    updates = len(case.guest.updates)
    with waiting_answers(case, calls, answers=answers, flow_count=flow_count) as session:
        waited = session.progress().sent - session.progress().answers
        yield
        calls.disarm()
        with contextlib.suppress(DeadlineExceeded):  # what is missing is counted below
            session.wait_for_answers(session.progress().sent, Deadline(ARRIVE_S, "the answers"))
        session.finish()
    result = session.result()
    full = f"the answers to {result.sent} packets wait for room in the send buffer"
    early = result.sent - waited
    all_waited = case.require(f"send-buffer-full-{when}", early <= 0, full, f"{waited} wait", f"{early} arrived before")
    situation = f"with a full send buffer {when.replace('-', ' ')}"
    expect_all_arrive(case, f"answers-arrive-{when}", result, situation)
    for update in case.guest.updates[updates:] if all_waited else ():
        resume_ns = update.times_ns[Step.RESUME]
        sent = sum(time_ns < resume_ns for flow in result.flows for time_ns in flow.returned_ns if time_ns is not None)
        meaning = "answers that the source sent while its guest was stopped"
        case.expect_equal(f"none-sent-while-stopped-{when}", sent, 0, meaning)


def expect_link_can_go_down(case: MeasuredCase, calls: SupervisedCalls) -> None:
    """Answers that wait for room are dropped when the link is down and the VM has stopped; later packets arrive.

    Of the packets in the ring, QEMU can put back only the one that it took last (virtqueue_unpop()).
    """
    qmp = case.guest.machine.qmp
    with waiting_answers(case, calls) as session:
        set_link(case.guest, up=False)
        qmp.execute("stop")
        calls.disarm()
        qmp.execute("cont")
        expect_completed(case, "with-link-down")
        set_link(case.guest, up=True)
        session.finish()
    exchange_packets(case, case.guest.machine.settings.netdevs[0].queues, "after-link-down")


def expect_completed(case: MeasuredCase, when: str) -> None:
    """QEMU has put each packet that it sent into the used ring, with an interrupt: none fills the socket it came from.

    Source: tx_queue of /proc/net/udp (sk_wmem_alloc_get(), net/ipv4/udp.c); the driver frees what it finds used.
    """

    def waiting() -> int:
        rows = [row.split() for file in case.guest.agent.files(SOCKETS).values() for row in file.text.splitlines()[1:]]
        return sum(int(row[4].partition(":")[0], 16) for row in rows)

    with contextlib.suppress(DeadlineExceeded):  # what waits is counted below
        Deadline(ARRIVE_S, "the guest to free its packets", Awaited.GUEST).poll(lambda: waiting() == 0, 0.05)
    meaning = "bytes that were sent and still fill sockets of the guest"
    case.expect_equal(f"packets-completed-{when}", waiting(), 0, meaning, family="packets-completed")


def _wait_answered(case: MeasuredCase, session: TrafficSession) -> None:
    """Wait until the guest has reflected all packets: its answers are in the transmit ring."""
    sent = session.progress().sent

    def reflected() -> bool:
        return case.guest.agent.reflector().reflected >= sent

    Deadline(TRAFFIC_ANSWER_S, "the guest to answer all packets", Awaited.GUEST).poll(reflected, 0.02)


@contextlib.contextmanager
def each_frame_once(case: MeasuredCase, when: str) -> Iterator[None]:
    """Frames of the guest wait in QEMU during the body. At the end the tap must have received each frame exactly once.

    Not for an update, in which QEMU sends frames of its own.

    :param when: for the check's name.
    """
    before = _wait_settled(case)
    yield
    beyond = 0

    def counted() -> bool:
        nonlocal beyond
        beyond = _frames_beyond(case) - before
        return beyond == 0

    with contextlib.suppress(DeadlineExceeded):  # the guest counts a frame after the tap
        Deadline(ARRIVE_S, "the frames").poll(counted, 0.05)
    name, meaning = f"each-frame-once-{when}", "frames that the tap got beyond those that the guest has sent"
    case.expect_equal(name, beyond, 0, meaning, family="each-frame-once")


def _wait_settled(case: MeasuredCase) -> int:
    """:func:`_frames_beyond`, once QEMU has sent its last announcement.

    :raises DeadlineExceeded: it sends frames of its own all the time.
    """
    seen, since = _frames_beyond(case), time.monotonic()

    def settled() -> bool:
        nonlocal seen, since
        if (now := _frames_beyond(case)) != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since >= SETTLED_S

    Deadline(10, "QEMU to have announced the guest", Awaited.QEMU).poll(settled, 0.05)
    return seen


def _frames_beyond(case: MeasuredCase) -> int:
    """Frames that the tap got from QEMU beyond those that the guest has sent: QEMU's announcements, and copies."""
    sent = case.guest.agent.network().nic().counters["tx_packets"]
    return read_counters(case.guest.topology.switch, case.guest.tap).rx_packets - sent
