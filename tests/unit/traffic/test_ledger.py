"""Every missing packet ends in one row, at the hop that lost it."""

from __future__ import annotations

import fcntl
import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprlib.deadline import Deadline
from cprlib.errors import EnvironmentFailure
from cprlib.linux.counters import read_counters
from cprlib.linux.topology import Topology, build_topology
from cprlib.linux.tracefs import parse_ftrace
from cprlib.traffic.figures import Cause, Direction, HopName, LedgerRow, Period
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.hops import HOPS, HopCount, absent_counters, count_hops
from cprlib.traffic.kernel_drops import DropEvent, DropReport, DropTrace, MissingPacket, drop_events
from cprlib.traffic.ledger import GuestStop, cause_of, make_ledger, nearest, place, rows_of
from cprlib.traffic.session import TrafficSession

from .veth import require_root, silence

STOP, RESUME = 1_000_000_000, 1_300_000_000
UPDATES = (GuestStop(STOP, RESUME),)
NO_DROPS = DropReport("no tracepoint")
COUNTERS = tuple(name for hop in HOPS for name in hop.counters)


def missing(*times: int, direction: Direction = Direction.FORWARD) -> list[MissingPacket]:
    return [MissingPacket(direction, 4, number, sent_ns) for number, sent_ns in enumerate(times)]


def hop(name: str, entered: int | None, left: int | None, **dropped: int | None) -> HopCount:
    return HopCount(name, Direction.FORWARD, entered, left, dropped, "test")


def placed_at(packets: Sequence[MissingPacket]) -> Counter[str]:
    return Counter(packet.hop for packet in packets)


def test_the_two_packets_before_stop_are_placed_after_the_tap() -> None:
    """They were read from the tap, never arrived at the guest, and no counter has them."""
    hops = [hop("tap queue", 100, 100, tx_dropped=0), hop("qemu", 100, 98, rx_dropped=0), hop("guest stack", 98, 98)]
    packets = place(missing(STOP - 2_000_000, STOP - 1_000_000), hops, NO_DROPS, UPDATES)
    assert [packet.hop for packet in packets] == ["qemu", "qemu"]


def test_a_full_queue_explains_packets_sent_while_the_guest_was_stopped() -> None:
    hops = [hop("tap queue", 100, 98, tx_dropped=2), hop("qemu", 98, 97, rx_dropped=0)]
    packets = place(missing(STOP - 5, STOP + 10, STOP + 20), hops, NO_DROPS, UPDATES)
    assert {packet.sequence: packet.hop for packet in packets} == {0: "qemu", 1: "tap queue", 2: "tap queue"}


@pytest.mark.parametrize(
    ("counter", "drop_reason"),
    [
        ("tap.tx_dropped", ""),
        ("", "FULL_RING"),
        # a tap that stops its transmit queue when it is full: the queueing discipline before it overflows instead
        ("tap.queue_out_dropped", ""),
        ("", "QDISC_DROP"),
        ("", "QDISC_OVERLIMIT"),
    ],
)
def test_full_queue_is_the_cause_wherever_the_kernel_drops(counter: str, drop_reason: str) -> None:
    (packet,) = missing(STOP)
    in_queue = replace(packet, hop=HopName.TAP_QUEUE)
    assert cause_of(replace(in_queue, counter=counter, drop_reason=drop_reason)) == Cause.OVERFLOW
    assert cause_of(in_queue) == Cause.UPDATE


def test_kernel_events_name_packet_and_reason() -> None:
    events = (
        DropEvent(STOP + 50_030_000, 0x0800, "tun_net_xmit", "FULL_RING"),
        DropEvent(STOP + 60_020_000, 0x0806, "arp_rcv", "OTHERHOST"),  # no IP packet
        DropEvent(STOP + 900_000_000, 0x0800, "somewhere", "NOT_SPECIFIED"),  # much later than any missing packet
    )
    hops = [hop("tap queue", 100, 98, tx_dropped=1)]
    packets = place(
        missing(STOP + 40_000_000, STOP + 50_000_000, STOP + 60_000_000), hops, DropReport("", events), UPDATES
    )
    by_number = {packet.sequence: packet for packet in packets}
    assert (by_number[1].hop, by_number[1].reason) == ("tap queue", "FULL_RING in tun_net_xmit")
    # the counter's one drop is that event; one more vanished between the counters; one is unexplained
    assert sorted(packet.hop for packet in packets) == ["tap queue", "tap queue", HopName.UNEXPLAINED]


@pytest.mark.parametrize("where", ["station", "switch", "tap queue"])
def test_counters_decide_where_a_queue_dropped_what_the_kernel_reports(where: str) -> None:
    """Every interface runs the same kernel functions: only the hops' counters identify it."""
    names = ("station", "switch", "tap queue")
    hops = [hop(name, 100, 98 if name == where else 100, queue_out_dropped=2 * (name == where)) for name in names]
    events = tuple(DropEvent(STOP + number, 0x0800, "__dev_queue_xmit", "QDISC_DROP") for number in (20, 1_000_020))
    packets = place(missing(STOP, STOP + 1_000_000), hops, DropReport("", events), UPDATES)
    assert [(packet.hop, packet.reason) for packet in packets] == [(where, "QDISC_DROP in __dev_queue_xmit")] * 2


def test_a_packet_placed_by_an_event_is_not_counted_twice() -> None:
    """One was dropped at the station's egress; that is the hop's whole loss, so the other was lost in QEMU."""
    hops = [hop("station", 100, 99), hop("qemu", 99, 98, rx_dropped=0)]
    events = (DropEvent(STOP + 1_000_010, 0x0800, "__dev_queue_xmit", "TC_EGRESS"),)
    packets = place(missing(STOP, STOP + 1_000_000), hops, DropReport("", events), UPDATES)
    assert {packet.sequence: packet.hop for packet in packets} == {0: "qemu", 1: "station"}


@pytest.mark.parametrize(
    ("direction", "dropped", "cause"),
    [
        (Direction.RETURN, 0, Cause.UPDATE),
        (Direction.RETURN, 50, Cause.GUEST),
        (Direction.FORWARD, 0, Cause.GUEST),
    ],
)
def test_answers_that_never_leave_the_guest_are_its_loss_only_if_it_counts_them(
    direction: Direction, dropped: int, cause: Cause
) -> None:
    """The guest cannot get rid of them when QEMU no longer takes packets from its transmit queue."""
    hops = [replace(hop("guest stack", 100, 50, tx_dropped=dropped), direction=direction)]
    packets = place(missing(*range(50), direction=direction), hops, NO_DROPS, UPDATES)
    assert placed_at(packets) == {"guest stack": 50}
    assert {cause_of(packet) for packet in packets} == {cause}


def test_an_event_of_an_unknown_function_explains_only_packets_without_a_counter() -> None:
    """A foreign fragment that times out at the station is not a packet that the guest's socket dropped."""
    events = (DropEvent(STOP + 10, 0x0800, "inet_frag_rbtree_purge", "FRAG_REASM_TIMEOUT"),)
    hops = [hop("guest stack", 10, 9, rcvbuf_errors=1)]
    (packet,) = place(missing(STOP), hops, DropReport("", events), UPDATES)
    assert (packet.hop, packet.reason) == ("guest stack", "counted by rcvbuf_errors")
    (packet,) = place(missing(STOP), [], DropReport("", events), UPDATES)
    assert packet.hop == "kernel: inet_frag_rbtree_purge"


def test_the_drop_of_another_protocol_is_ignored() -> None:
    events = (DropEvent(STOP + 10, 0x86DD, "tun_net_xmit", "FULL_RING"),)
    packets = place(missing(STOP), [], DropReport("", events), UPDATES)
    assert placed_at(packets) == {HopName.UNEXPLAINED: 1}


TAP_DROPS = "tap.tx_dropped"


def full_tap(dropped: int, lost_in_qemu: int) -> list[HopCount]:
    left = 100 - dropped
    queue = HopCount("tap queue", Direction.FORWARD, 100, left, {TAP_DROPS: dropped}, "test")
    return [queue, hop("qemu", left, left - lost_in_qemu, rx_dropped=0)]


@pytest.mark.parametrize("protocol", [0x0806, 0x0800])
@pytest.mark.parametrize("early", [STOP - 2_000_000, STOP + 1_000_000, RESUME + 2_000_000_000])
def test_frames_of_others_in_a_full_queue_do_not_hide_packets_that_qemu_lost(early: int, protocol: int) -> None:
    """The station asks for the guest's address, or another stream's packet finds the queue full."""
    dropped = [STOP + 800_000_000 + number * 1_000_000 for number in range(5)]
    times = sorted([(moment + 30_000, 0x0800) for moment in dropped] + [(dropped[-1] + 700_000, protocol)])
    drops = DropReport("", tuple(DropEvent(moment, kind, "tun_net_xmit", "FULL_RING") for moment, kind in times))
    updates = [GuestStop(STOP, RESUME + 1_000_000_000)]
    packets = place(missing(*sorted([early, *dropped])), full_tap(6, 1), drops, updates)
    assert placed_at(packets) == {"tap queue": 5, "qemu": 1}
    assert {packet.sent_ns for packet in packets if packet.hop == "qemu"} == {early}


def test_a_drop_on_a_machine_that_stood_still_is_a_full_queue() -> None:
    """The packet was stamped 300 ms before it reached the queue."""
    drops = DropReport("", (DropEvent(STOP + 300_000_000, 0x0800, "tun_net_xmit", "FULL_RING"),))
    (packet,) = place(missing(STOP), full_tap(1, 0), drops, UPDATES)
    assert cause_of(packet) is Cause.OVERFLOW


@pytest.mark.parametrize("drops", [NO_DROPS, DropReport("", lost=1)])
def test_without_a_complete_trace_a_full_queue_has_no_packet_sent_before_the_stop(drops: DropReport) -> None:
    times = [STOP - 2_000_000, STOP + 1_000_000, RESUME + 1_000_000]
    packets = place(missing(*times), full_tap(3, 0), drops, UPDATES)
    assert {packet.sent_ns for packet in packets if packet.hop == "tap queue"} == {*times[1:]}
    assert placed_at(packets)[HopName.UNEXPLAINED] == 1
    without_update = place(missing(*times), full_tap(3, 0), drops, ())
    assert placed_at(without_update) == {"tap queue": 3}


@given(
    st.lists(st.integers(0, 2 * RESUME), max_size=12),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=4),
    st.lists(st.integers(0, 2 * RESUME), max_size=6),
)
def test_each_packet_has_one_place(times: list[int], counts: list[tuple[int, int]], events: list[int]) -> None:
    packets = missing(*sorted(times))
    hops = [hop(f"hop {number}", 100, 100 - d - v, dropped=d) for number, (d, v) in enumerate(counts)]
    drops = DropReport("", tuple(DropEvent(moment, 0x0800, "tun_net_xmit", "X") for moment in events))
    packets = place(packets, hops, drops, UPDATES)
    assert sorted(packet.sequence for packet in packets) == list(range(len(times)))
    assert all(packet.reason for packet in packets)
    for number, (dropped, vanished) in enumerate(counts):
        assert placed_at(packets)[f"hop {number}"] <= dropped + vanished


def test_rows_have_the_nearest_update() -> None:
    """Three updates, a second apart; packets just after the second one's RESUME and just before the third's STOP."""
    second = 1_000_000_000
    updates = [GuestStop(STOP + number * second, RESUME + number * second, number + 1) for number in range(3)]
    lost = missing(RESUME + second + 5_000_000, STOP + 2 * second - 3_000_000, STOP + 2 * second + 1_000_000)
    rows = rows_of(place(lost, [hop("qemu", 10, 7)], NO_DROPS, updates), updates)
    assert [(row.moment, row.count) for row in rows] == [
        ("5.0 ms after RESUME of update 2", 1),
        ("3.0 ms before STOP of update 3", 1),
        ("1.0 ms after STOP, before RESUME of update 3", 1),
    ]
    assert [row.period for row in rows] == [Period.AFTER_RESUME, Period.BEFORE_STOP, Period.STOPPED]


@pytest.mark.parametrize(
    ("time_ns", "period"),
    [
        (STOP - 200_000_000, Period.LONG_BEFORE),
        (RESUME + 99_000_000, Period.AFTER_RESUME),
        (RESUME + 200_000_000, Period.LONG_AFTER),
    ],
)
def test_far_from_an_update_is_another_period(time_ns: int, period: Period) -> None:
    (row,) = rows_of(place(missing(time_ns), [hop("qemu", 10, 9)], NO_DROPS, UPDATES), UPDATES)
    assert row.period == period


def test_without_an_update_rows_say_so() -> None:
    (row,) = rows_of(place(missing(STOP), [hop("qemu", 10, 9)], NO_DROPS, ()), ())
    assert row.period == Period.NO_UPDATE


def test_an_update_without_resume_has_all_packets_until_the_next() -> None:
    updates = [GuestStop(STOP, None, 1), GuestStop(STOP + 4_000_000_000, RESUME + 4_000_000_000, 2)]
    assert nearest(STOP + 1_000_000_000, updates).number == 1
    assert nearest(STOP + 3_000_000_000, updates).number == 2
    assert nearest(STOP, ()) == GuestStop()


def test_packet_that_leaves_a_queue_uncounted_is_not_lost_by_a_full_queue() -> None:
    """Each counter of the hop is named in the row's reason, also that of a full queue."""
    after: dict[str, int | None] = {"port.rx_passed": 10, "tap.tx_packets": 9}
    after |= dict.fromkeys(("tap.tx_dropped", "tap.tx_errors", "tap.queue_out_dropped"), 0)
    queue = next(hop for hop in count_hops(dict.fromkeys(after, 0), after) if hop.hop == "tap queue")
    (row,) = rows_of(place(missing(STOP + 5), [queue], NO_DROPS, UPDATES), UPDATES)
    assert (row.hop, row.cause) == ("tap queue", Cause.UPDATE)


def test_packets_of_other_streams_explain_nothing() -> None:
    """Frames of another stream at the capture do not explain a missing answer."""
    after: dict[str, int | None] = {"capture.frames": 130, "capture.captured": 98, "capture.drops": 0}
    after["capture.others"] = 30
    capture = next(hop for hop in count_hops(dict.fromkeys(after, 0), after) if hop.hop == "capture")
    assert (capture.dropped, capture.others, capture.unaccounted) == (0, 30, 2)
    packets = place(missing(1, 2, 3, direction=Direction.RETURN), [capture], NO_DROPS, UPDATES)
    assert placed_at(packets) == {"capture": 2, HopName.UNEXPLAINED: 1}


def test_announcements_of_qemu_do_not_hide_answers_that_it_lost() -> None:
    after: dict[str, int | None] = {"guest.tx_packets": 100, "capture.announcements": 5, "tap.rx_packets": 102}
    after |= dict.fromkeys(("tap.rx_dropped", "tap.rx_errors"), 0)
    hops = count_hops(dict.fromkeys(after, 0), after)
    qemu = next(hop for hop in hops if (hop.hop, hop.direction) == (HopName.QEMU, Direction.RETURN))
    assert (qemu.entered, qemu.unaccounted) == (105, 3)


@pytest.mark.parametrize(
    ("hop", "counter", "cause"),
    [
        (HopName.GUEST_STACK, "guest.udp_in_errors", Cause.UPDATE),  # a wrong checksum
        (HopName.GUEST_STACK, "reflector.overflow", Cause.GUEST),
        (HopName.REFLECTOR, "reflector.send_errors", Cause.UPDATE),  # no room in the guest's NIC
        (HopName.REFLECTOR, "reflector.log_overflow", Cause.INSTRUMENT),
    ],
)
def test_packets_that_qemu_damages_or_does_not_take_are_lost_by_the_update(
    hop: HopName, counter: str, cause: Cause
) -> None:
    (packet,) = missing(STOP)
    assert cause_of(replace(packet, hop=hop, counter=counter)) is cause


def test_other_sockets_of_the_guest_explain_nothing() -> None:
    """Neither full ones nor closed ports; nor does a counter that fell."""
    before = dict.fromkeys((*COUNTERS, "guest.udp_no_ports", "guest.udp_rcvbuf_errors"), 0)
    after: dict[str, int | None] = {
        **before,
        "tap.tx_packets": 100,
        "guest.rx_packets": 98,
        "reflector.received": 90,
        "guest.udp_no_ports": 3,
        "guest.udp_rcvbuf_errors": 5,
        "reflector.overflow": -5,
    }
    hops = [hop for hop in count_hops(before, after) if hop.hop in ("qemu", "guest stack")]
    packets = place(missing(STOP - 2, STOP - 1), hops[:2], NO_DROPS, UPDATES)
    assert placed_at(packets) == {"qemu": 2}
    assert hops[1].dropped == 0


def test_absent_counters_are_not_zero() -> None:
    before: dict[str, int | None] = {"sender.sent": 0, "station.tx_packets": None}
    after: dict[str, int | None] = {"sender.sent": 10, "station.tx_packets": 10}
    first = count_hops(before, after)[0]
    assert (first.entered, first.left, first.dropped, first.unaccounted) == (10, None, None, None)
    absent = absent_counters(before, after)
    assert "station.tx_packets" in absent
    assert "sender.sent" not in absent


TRACE = """\
# tracer: nop
#
          python-60      [000] b....    12.345678: kfree_skb: skbaddr=00000000abcd rx_sk=0 protocol=2048 \
location=tun_net_xmit+0x1b3/0x2f0 [tun] reason: FULL_RING
 qemu system-x8-7       [001] d.s2.    12.345700: kfree_skb: skbaddr=00000000abcd rx_sk=0 protocol=34525 \
location=__udp6_lib_rcv+0x12/0x20 reason: NO_SOCKET
          python-60      [000] b....    12.345701: consume_skb: skbaddr=00000000abcd
CPU:1 [LOST 5 EVENTS]
"""


def test_a_trace_is_read() -> None:
    assert drop_events(parse_ftrace(TRACE, 1_000_000_000_000)) == (
        DropEvent(1_012_345_678_000, 0x0800, "tun_net_xmit", "FULL_RING"),
        DropEvent(1_012_345_700_000, 0x86DD, "__udp6_lib_rcv", "NO_SOCKET"),
    )


@given(st.text())
def test_any_text_can_be_read_as_a_trace(text: str) -> None:
    drop_events(parse_ftrace(text, 0))


def test_a_missing_tracepoint_is_reported(tmp_path: Path) -> None:
    with DropTrace(tmp_path) as trace:
        report = trace.report()
    assert "no tracepoint" in report.unavailable


def open_tap(topology: Topology) -> int:
    """The tap's descriptor, as QEMU opens it."""
    iff_tap, iff_no_pi, iff_vnet_hdr, tunsetiff = 0x0002, 0x1000, 0x4000, 0x400454CA  # linux/if_tun.h
    with topology.switch.entered():
        opened = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(opened, tunsetiff, struct.pack("16sH22x", b"tap0", iff_tap | iff_no_pi | iff_vnet_hdr))
    return opened


def counters(topology: Topology) -> dict[str, int | None]:
    tap, port = (read_counters(topology.switch, name) for name in ("tap0", "port0"))
    station = read_counters(topology.station, "eth0")
    return {
        "station.tx_packets": station.tx_packets,
        "station.tx_dropped": station.tx_dropped,
        "port.rx_passed": port.rx_packets,
        "port.rx_dropped": port.rx_dropped,
        "tap.tx_packets": tap.tx_packets,
        "tap.tx_dropped": tap.tx_dropped,
        "tap.tx_errors": tap.tx_errors,
    }


@pytest.mark.parametrize("queue_length", [10, 64])
@pytest.mark.parametrize("read_after", [False, True])
def test_a_full_tap_queue_under_a_stopped_guest_is_found(queue_length: int, read_after: bool) -> None:
    """The first packets are kept, up to the queue's length; the others are dropped there, and placed there."""
    require_root()
    packets = 200
    try:
        with build_topology() as topology, DropTrace() as trace:
            topology.add_tap("tap0", queues=1, queue_length=queue_length)
            silence(topology.station)  # its MLD reports would occupy the queue
            opened = open_tap(topology)  # from here on the tap has a carrier and queues packets
            try:
                before = {**counters(topology), "sender.sent": 0}
                with TrafficSession(topology.station, flows_between(), StreamSettings(2000, count=packets)) as session:
                    session.wait_sent(Deadline(20, "the stream to be sent"))
                    session.finish(linger_s=0)
                kept = 0
                while read_after:
                    try:
                        kept += len(os.read(opened, 2048)) == 10 + 86
                    except BlockingIOError:
                        break
                after = {**counters(topology), "sender.sent": packets}
                drops = trace.report()
            finally:
                os.close(opened)
    except EnvironmentFailure as error:
        pytest.skip(error.one_line())
    result = session.result([], reflector_drops=0)
    sent_ns = result.flows[0].sent_ns
    ledger = make_ledger(result, count_hops(before, after), drops, [GuestStop(sent_ns[0], sent_ns[-1])])
    overflow = [row for row in ledger.rows if row.hop == "tap queue" and "never left" not in row.reason]
    kept_in_queue = [row for row in ledger.rows if row.hop == "tap queue" and "never left" in row.reason]
    assert sum(row.count for row in overflow) == packets - queue_length
    assert sum(row.count for row in kept_in_queue) == (0 if read_after else queue_length)
    if read_after:
        assert kept == queue_length
    assert ledger.missing == packets
    if not drops.unavailable:
        assert sorted(_sequences(overflow)) == list(range(queue_length, packets))[:64]
        assert {row.reason for row in overflow} == {"FULL_RING in tun_net_xmit"}


def _sequences(rows: Sequence[LedgerRow]) -> list[int]:
    return [sequence for row in rows for sequence in row.sequences]
