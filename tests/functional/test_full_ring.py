"""An update while the guest's receive ring is full and packets wait in the tap, or the tap's send buffer is full."""

from __future__ import annotations

import bisect
import contextlib
import errno
import hashlib
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.evidence.records import Role
from cprlib.linux.counters import read_counters
from cprlib.linux.descriptors import read_table
from cprlib.linux.supervised_calls import WRITEV, FailingCall, SupervisedCalls, SystemCall
from cprlib.linux.topology import GUEST
from cprlib.qemu.nic_state import receive_buffers, receive_ring_size
from cprlib.qemu.vmstate import device_state
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.netdev_checks import update_guest
from cprlib.testing.nic_frames import use_queue_pairs
from cprlib.traffic.control_run import capture_problems
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.probes import warm_up
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession
from cprlib.traffic.tcp import TcpRole
from cprlib.update.events import Step
from cprlib.update.fault_injection import inject_fault
from cprlib.update.faults import faults_named
from cprlib.update.hooks import RecordMainChannel
from cprlib.update.live_update import LiveUpdate, UpdateHook

WAITING = 200  # packets that have no room in the ring
RATE = 3000.0  # packets/s
# between two looks of the driver, ms: longer than it takes until the guest stops; for an update the state is read first
SHORT_MS, FAILED_UPDATE_MS, UPDATE_MS = 1500, 3000, 5000
ARRIVE_S = 5.0
ANSWERS = 50  # of the guest that have no room in the send buffer; its transmit rings have room for them
PAGE, SEGMENT_BYTES = 4096, 12_000  # less than a connection may send before the first answer (10 segments, RFC 6928)
FREE_BUFFERS = 2  # too few for that segment
FLOWS = 12  # of these answers, over all queues; the guest's kernel chooses a queue by a hash of the flow
QUEUES = 2
SETTLED_S = 0.5  # without an announcement: the longest time between two of QEMU's is 350 ms (announce-step, QAPI)
WRITE_TO_TAP = SystemCall(WRITEV)  # tap_write_packet(), net/tap.c
ALWAYS = 1 << 62


@contextlib.contextmanager
def full_ring(
    case: MeasuredCase, when: str, *, wait_ms: int = SHORT_MS, only_one_waits: bool = False
) -> Iterator[None]:
    """The body runs while the receive ring of the guest's queue pair is full and packets wait; in the end all arrive.

    :param when: for the checks' names: ``across-an-update``.
    :param wait_ms: how long the guest leaves it full, in ms of its clock.
    :param only_one_waits: one packet waits, and none follows it; without vhost.
    """
    agent, station = case.guest.agent, case.guest.topology.station
    flows = flows_between(count=1, first_port=case.ports.take())
    updates = len(case.guest.updates)
    warm_up(station, flows, Deadline(10, "the guest to answer", Awaited.GUEST))
    agent.defer_receiving(wait_ms)
    # the driver waits from its next poll, which takes all that has come: one packet
    warm_up(station, flows, Deadline(10, "the guest to answer", Awaited.GUEST), round_trips=1)
    qmp = case.guest.machine.qmp
    room, waiting = (receive_buffers(qmp), 1) if only_one_waits else (receive_ring_size(qmp), WAITING)
    settings = StreamSettings(rate=RATE, count=room + waiting)
    with TrafficSession(station, flows, settings, keep_frames=0) as session:
        session.wait_sent(Deadline(10, "a burst of packets to be sent"))
        full_ns = time.time_ns()
        yield
        stops = [update.times_ns[Step.STOP] for update in case.guest.updates[updates:] if Step.STOP in update.times_ns]
        until_ns = min(stops, default=time.time_ns())
        with contextlib.suppress(DeadlineExceeded):  # what is missing is counted below
            session.wait_for_answers(session.progress().sent, Deadline(wait_ms / 1000 + ARRIVE_S, "the answers"))
        session.finish(linger_s=1.0)
    agent.defer_receiving(0)
    _judge(case, when, room, session.result(), full_ns, until_ns)


@contextlib.contextmanager
def large_segment_waits(case: MeasuredCase, when: str) -> Iterator[RecordMainChannel]:
    """The body updates a guest whose ring is full, while a TCP segment larger than a page waits; it arrives unchanged.

    Without vhost. The hook that this returns has to be one of the update's.

    :param when: for the checks' names.
    """
    agent, station, port = case.guest.agent, case.guest.topology.station, case.ports.take()
    (flow,) = flows_between(count=1, first_port=case.ports.take())
    content, recorded = random.Random(port).randbytes(SEGMENT_BYTES), RecordMainChannel()  # noqa: S311 - no secret
    index = agent.start_tcp(TcpRole.SINK, port)
    with station.entered():
        sender = socket.create_connection((GUEST.ipv4, port), ARRIVE_S)
    with sender:
        agent.defer_receiving(UPDATE_MS)
        warm_up(station, [flow], Deadline(10, "the guest to answer", Awaited.GUEST), round_trips=1)
        settings = StreamSettings(rate=RATE, count=receive_buffers(case.guest.machine.qmp) - FREE_BUFFERS)
        with TrafficSession(station, [flow], settings, keep_frames=0) as session:
            session.wait_sent(Deadline(10, "a burst of packets to be sent"))
            sender.sendall(content)  # as one segment: the connection has sent nothing yet
            yield recorded
            sender.shutdown(socket.SHUT_WR)
            result = agent.finished_tcp(index, Deadline(UPDATE_MS / 1000 + ARRIVE_S, "the segment", Awaited.GUEST))
    agent.defer_receiving(0)
    state = device_state(recorded.stream)
    waiting = sum(len(value) // 2 for path, value in state.items() if path.startswith("tap/"))  # hexadecimal
    expected = f"a packet of more than {PAGE} bytes waits"
    if waiting <= PAGE:
        case.inconclusive(f"large-segment-waits-{when}", expected, f"{waiting} bytes")
        return
    case.expect(f"large-segment-waits-{when}", True, expected, f"{waiting} bytes")
    arrived = result.byte_count, result.sha256
    sent = SEGMENT_BYTES, hashlib.sha256(content).hexdigest()
    case.expect_equal(
        f"large-segment-arrives-{when}", arrived, sent, "bytes that the guest received, and their SHA-256"
    )


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
    if at_last <= room:
        case.inconclusive(f"ring-full-{when}", full, f"{seen}: the ring was not full all the time")
    else:
        case.expect(f"ring-full-{when}", True, full, seen)
    _expect_all_arrive(case, f"all-arrive-{when}", result, f"with a full receive ring {when.replace('-', ' ')}")


def _expect_all_arrive(case: MeasuredCase, name: str, result: TrafficResult, situation: str) -> None:
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


@contextlib.contextmanager
def full_send_buffer(case: MeasuredCase, calls: SupervisedCalls, when: str) -> Iterator[None]:
    """The body runs while the tap takes no packet of the guest (EAGAIN), whose answers wait; in the end all arrive.

    A send buffer (netdev option ``sndbuf``) is full as long as another device keeps the packets; here the system call
    says so, until it is disarmed. QEMU tries again all the time then, which starves idle sources of its main loop: let
    the calls pass before anything is connected.

    :param calls: fails the calls of the guest's QEMU.
    """
    station = case.guest.topology.station
    flows = flows_between(count=FLOWS, first_port=case.ports.take(FLOWS))
    settings = StreamSettings(rate=RATE, count=ANSWERS)
    warm_up(station, flows, Deadline(10, "the guest to answer", Awaited.GUEST))
    for tap in read_table(case.guest.machine.pid).of_kind("tap"):
        calls.arm(FailingCall(WRITE_TO_TAP, errno.EAGAIN, descriptor=tap.number, times=ALWAYS))
    case.guest.agent.reset_reflector()
    with TrafficSession(station, flows, settings, keep_frames=0) as session:
        session.wait_sent(Deadline(10, "a burst of packets to be sent"))
        _wait_answered(case, session)
        waited = session.progress().sent - session.progress().answers
        yield
        calls.disarm()
        with contextlib.suppress(DeadlineExceeded):  # what is missing is counted below
            session.wait_for_answers(session.progress().sent, Deadline(ARRIVE_S, "the answers"))
        session.finish(linger_s=1.0)
    result = session.result()
    full = f"the answers to {result.sent} packets wait for room in the send buffer"
    if waited < result.sent:
        case.inconclusive(f"send-buffer-full-{when}", full, f"{result.sent - waited} arrived before")
    else:
        case.expect(f"send-buffer-full-{when}", True, full, f"{waited} wait")
    situation = f"with a full send buffer {when.replace('-', ' ')}"
    _expect_all_arrive(case, f"answers-arrive-{when}", result, situation)


def _wait_answered(case: MeasuredCase, session: TrafficSession) -> None:
    """Wait until the guest has reflected all packets: its answers are in the transmit ring."""
    sent = session.progress().sent

    def reflected() -> bool:
        return case.guest.agent.reflector().reflected >= sent

    Deadline(ARRIVE_S, "the guest to answer all packets", Awaited.GUEST).poll(reflected, 0.02)


@contextlib.contextmanager
def each_frame_once(case: MeasuredCase, when: str) -> Iterator[None]:
    """The body lets frames of the guest wait in QEMU; in the end the tap has got each frame once, of whatever kind.

    Not for an update, in which QEMU sends frames of its own.

    :param when: for the check's name.
    """
    before = _wait_settled(case)
    yield
    with contextlib.suppress(DeadlineExceeded):  # the guest counts a frame after the tap
        deadline = Deadline(ARRIVE_S, "the frames")
        deadline.poll(lambda: _frames_beyond(case) == before, 0.05)
    name, meaning = f"each-frame-once-{when}", "frames that the tap got beyond those that the guest has sent"
    case.expect_equal(name, _frames_beyond(case) - before, 0, meaning, family="each-frame-once")


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


class RoomWhenStopped(UpdateHook):
    """The tap has room again when the guest has stopped, and its QEMU could send what waits."""

    def __init__(self, calls: SupervisedCalls) -> None:
        self._calls = calls

    def after_stop(self, update: LiveUpdate) -> None:  # noqa: ARG002
        """Let all calls pass again."""
        self._calls.disarm()


class FullReceiveRing(LiveUpdateTest):
    """Mechanism ``cpr``; one queue pair whose receive ring is full."""

    def _update(self, *, vhost: bool) -> None:
        with self.given_guest(GuestSpec(vhost=vhost, role=Role.CHECKS)) as case:
            with full_ring(case, "across-a-failed-update", wait_ms=FAILED_UPDATE_MS):
                inject_fault(case.guest, *faults_named("target-killed-with-devices"))
            with full_ring(case, "across-an-update", wait_ms=UPDATE_MS):
                case.live_update()
            with full_ring(case, "in-the-target"):
                pass
            if not vhost:
                with full_ring(case, "across-an-update-with-one", wait_ms=UPDATE_MS, only_one_waits=True):
                    case.live_update()
                with large_segment_waits(case, "across-an-update") as recorded:
                    case.live_update(hooks=[recorded])
            case.expect_no_complaint()

    def test_packets_for_full_ring_arrive_without_vhost(self) -> None:
        """Packets that wait for a full ring arrive after an update, and after one that failed, without vhost.

        QEMU reads a packet before it finds that the ring has no room for it; then it stops reading the tap. Patch 12
        (tap: hand over the packet that a full ring keeps waiting).

        :avocado: tags=patch:full-ring,patch:12,patch:no-loss,patch:9,mechanism:cpr,vhost:off,queues:1
        """
        self._update(vhost=False)

    def test_packets_for_full_ring_arrive_with_vhost(self) -> None:
        """Packets that wait for a full ring arrive after an update, and after one that failed, with vhost.

        vhost leaves them in the tap until the guest reports room (handle_rx(), drivers/vhost/net.c).

        :avocado: tags=patch:vhost-reset,patch:3,patch:no-loss,patch:9,mechanism:cpr,vhost:on,queues:1
        """
        self._update(vhost=True)


class FullSendBuffer(LiveUpdateTest):
    """Mechanism ``cpr``; a tap that has no room for packets of the guest."""

    def test_packets_for_full_send_buffer_arrive(self) -> None:
        """Packets of the guest that wait for room in the tap arrive after an update, on each queue pair.

        QEMU takes a packet from the ring before it finds that the tap has no room for it; vhost leaves it there. Patch
        13 (virtio-net: leave a packet in the ring that the backend has no room for).

        :avocado: tags=patch:full-send-buffer,patch:13,mechanism:cpr,vhost:off,queues:2
        """
        with (
            SupervisedCalls((WRITE_TO_TAP,)) as calls,
            self.given_guest(GuestSpec(queues=QUEUES, role=Role.CHECKS)) as case,
        ):
            own = case.guest.machine.settings
            use_queue_pairs(case, QUEUES, "before-update")
            if not update_guest(case, "under-filter", replace(own, prefix=calls.prefix)):
                return
            case.guest.machine.settings = own  # the next target is to run without the filter
            with each_frame_once(case, "without-an-update"), full_send_buffer(case, calls, "without-an-update"):
                pass
            with each_frame_once(case, "across-a-pause"), full_send_buffer(case, calls, "across-a-pause"):
                case.guest.machine.qmp.execute("stop")  # as each update does, also one that fails
                calls.disarm()
                case.guest.machine.qmp.execute("cont")
            with full_send_buffer(case, calls, "across-an-update"):
                update_guest(case, "full-send-buffer", hooks=[RoomWhenStopped(calls)])
            case.expect_no_complaint()
