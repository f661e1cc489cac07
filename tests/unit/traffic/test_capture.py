"""No frame ends the capture or changes a count: short, foreign and malformed frames are counted separately."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_NS, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapReader

from cprlib.deadline import Deadline
from cprlib.linux.topology import GUEST, STATION
from cprlib.traffic.capture import CaptureReport, StampCapture, checksums_valid
from cprlib.traffic.flow import Flow, StreamSettings, flows_between
from cprlib.traffic.frames import FrameClass, FrameTemplate, classify, sent_frames, write_pcap
from cprlib.traffic.packet_records import match_arrivals
from cprlib.traffic.ring import (
    TP_STATUS_CSUM_VALID,
    TP_STATUS_CSUMNOTREADY,
    PacketRing,
    RingSettings,
    open_ring,
)
from cprlib.traffic.session import TrafficSession
from cprlib.traffic.sockets import open_sending
from cprlib.traffic.stamp import UNMEASURED_SSID, reflector_packet

from .reflector_process import reflector_process
from .veth import INTERFACE, Pair, veth_pair_or_skip

FLOWS = (*flows_between(versions=(4, 6), count=2), *flows_between(versions=(4, 6), count=2, first_port=30000, size=45))
FLOW, FLOW6 = FLOWS[:2]
HEAD = Ether(src=GUEST.mac, dst=STATION.mac)
SMALL = RingSettings(blocks=4, block_size=4096, retire_ms=5)


def answer(flow: Flow, payload: bytes) -> Packet:
    network = (IPv6 if flow.version == 6 else IP)(src=flow.target, dst=flow.source)
    return HEAD / network / UDP(sport=flow.target_port, dport=flow.source_port) / Raw(payload)


GOOD = reflector_packet(0, 3, 2, 0, 1)


@contextlib.contextmanager
def capturing(
    pair: Pair, ring: RingSettings | None = None, keep: int = 0
) -> Iterator[tuple[StampCapture, socket.socket]]:
    """A capture at the station and a socket that sends from the guest's side."""
    shape = ring or RingSettings(blocks=8, block_size=64 * 1024, retire_ms=5)
    with pair.station.entered():
        opened = open_ring(INTERFACE, shape)
    with pair.guest.entered():
        sending = open_sending(INTERFACE)
    with sending, StampCapture(PacketRing(opened, shape), FLOWS, keep_frames=keep) as capture:
        yield capture, sending


def capture_frames(frames: list[bytes]) -> tuple[StampCapture, CaptureReport]:
    with veth_pair_or_skip() as pair, capturing(pair) as (capture, sending):
        capture.start()
        for frame in frames:
            sending.send(frame)
        capture.stop()
        return capture, capture.report()


def test_other_frames_are_counted_by_class() -> None:
    mld = HEAD / IPv6(dst="ff02::16") / IPv6ExtHdrHopByHop(options=[]) / ICMPv6MLReport2()
    frames = [
        HEAD / ARP(),
        HEAD / IPv6(src="fd75::2", dst="fd75::1") / ICMPv6ND_NS(tgt="fd75::1"),
        mld,
        HEAD / IP(src="10.75.0.2", dst="10.75.0.1") / ICMP(),
        HEAD / IP(src="10.75.0.2", dst="10.75.0.1", flags="MF") / UDP() / Raw(b"x" * 80),
        HEAD / IP(src="10.75.0.2", dst="10.75.0.1") / UDP(sport=53, dport=20000) / Raw(GOOD),
        HEAD / IP(src="10.75.0.9", dst="10.75.0.1") / UDP(sport=862, dport=20000) / Raw(GOOD),
        Ether(src=GUEST.mac, dst=STATION.mac, type=0x88CC) / Raw(b"lldp"),
        answer(FLOW, GOOD[:43]),
        answer(FLOW6, GOOD[:10]),
        answer(FLOW, b""),
        answer(FLOW, GOOD + b"padding"),
        *[bytes(answer(flow, GOOD))[:-8] for flow in (FLOW, FLOW6)],  # cut on the way
        *(answer(flow, reflector_packet(0, 3, 2, 0, 1, ssid=UNMEASURED_SSID)) for flow in (FLOW, FLOW6)),
        answer(FLOW, GOOD),
        answer(FLOW6, GOOD),
    ]
    capture, report = capture_frames([bytes(frame) for frame in frames])
    others = dict(report.others)
    others["mld"] -= max(0, others["mld"] - 1)  # the kernel's own reports for the addresses, if any
    assert others == {
        "arp": 1,
        "nd": 1,
        "mld": 1,
        "icmp": 1,
        "fragment": 1,
        "foreign": 3,
        "truncated": 6,
        "unmeasured": 2,
    }
    assert report.answers == 2
    assert (report.kernel_drops, report.faults) == (0, 0)
    assert [len(columns) for columns in capture.columns] == [1, 1, 0, 0]


def test_answers_with_a_bad_checksum_are_not_received() -> None:
    good = [bytes(answer(flow, GOOD.ljust(flow.size, b"\0"))) for flow in FLOWS]
    bad = []
    for frame in good:
        for place in (61, 80) if frame[12] == 0x86 else (24, 41):  # UDP and payload; or the IPv4 header and UDP
            damaged = bytearray(frame)
            damaged[place] ^= 1
            bad.append(bytes(damaged))
    none = bytearray(good[0])
    none[40:42] = bytes(2)  # no checksum
    _, report = capture_frames([*good, *bad, bytes(none)])
    assert (report.answers, report.bad_checksums) == (len(good) + 1, len(bad))


def test_unfinished_checksums_are_accepted_when_a_nic_can_finish_them() -> None:
    for flow, first, udp in ((FLOW, 26, 34), (FLOW6, 22, 54)):
        frame = bytearray(bytes(answer(flow, GOOD)))
        pseudo = (int.from_bytes(frame[first:udp]) + 17 + 52) % 0xFFFF
        frame[udp + 6 : udp + 8] = pseudo.to_bytes(2)
        assert checksums_valid(bytes(frame), TP_STATUS_CSUMNOTREADY)
        assert not checksums_valid(bytes(frame), 0)
        assert checksums_valid(bytes(frame), TP_STATUS_CSUM_VALID)
        frame[udp + 7] ^= 1
        assert not checksums_valid(bytes(frame), TP_STATUS_CSUMNOTREADY)


@given(st.lists(st.binary(min_size=14, max_size=200), min_size=1, max_size=30))
def test_classify_takes_any_bytes(frames: list[bytes]) -> None:
    for frame in frames:
        for kind in (b"", b"\x08\x00", b"\x86\xdd", b"\x08\x06"):
            assert classify(frame[:12] + kind + frame[14:]) in FrameClass


def test_any_bytes_leave_the_capture_alive() -> None:
    """Each prefix of good answers, and good answers with each byte of their headers changed."""
    good = [bytes(answer(FLOW, GOOD)), bytes(answer(FLOW6, GOOD))]
    frames = [frame[:length] for frame in good for length in range(14, len(frame))]
    for frame in good:
        for place in range(12, 62):
            changed = bytearray(frame)
            changed[place] ^= 0xFF
            frames.append(bytes(changed))
    capture, report = capture_frames([*frames, *good])
    assert report.faults == 0
    assert report.answers + sum(report.others.values()) + report.bad_checksums == report.kernel_packets
    assert report.bad_checksums > 20
    for columns in capture.columns[:2]:
        matched = match_arrivals([1], columns)
        assert all(arrival.t1 == 1 for arrival in matched.arrivals)
        assert matched.arrivals[-1].reflector_sequence == 0


def test_answers_to_packets_never_sent_are_counted_as_invalid() -> None:
    frames = [
        answer(FLOW, reflector_packet(0, 3, 2, 0, 1)),
        answer(FLOW, reflector_packet(1, 3, 2, 5, 1)),  # number never sent
        answer(FLOW, reflector_packet(2, 3, 2, 0, 77)),  # another time stamp than sent
        answer(FLOW, b"\x7f" * 44),
    ]
    capture, report = capture_frames([bytes(frame) for frame in frames])
    assert report.answers == 4
    matched = match_arrivals([1], capture.columns[0])
    assert (len(matched.arrivals), matched.invalid) == (1, 3)


def test_overflow_of_the_ring_is_reported() -> None:
    with veth_pair_or_skip() as pair, capturing(pair, SMALL) as (capture, sending):
        for _ in range(1000):
            sending.send(bytes(answer(FLOW, GOOD)))
        capture.start()
        capture.stop()
        report = capture.report()
    assert report.kernel_drops > 0
    assert report.answers + sum(report.others.values()) + report.kernel_drops == report.kernel_packets


def test_a_packet_after_the_last_block_is_not_counted() -> None:
    with veth_pair_or_skip() as pair, capturing(pair) as (capture, sending):
        read, found = capture._read_blocks, [1]

        def read_then_send() -> int:
            found.append(read() if capture._stop.is_set() else 1)
            if found[-2:] == [0, 0]:  # the capture ends after the second round without a block
                sending.send(bytes(answer(FLOW, GOOD)))
            return found[-1]

        capture._read_blocks = read_then_send  # type: ignore[method-assign]
        capture.start()
        capture.stop()
        report = capture.report()
    assert found[-2:] == [0, 0]
    assert report.answers + sum(report.others.values()) == report.kernel_packets


def test_the_capture_ends_while_frames_keep_arriving() -> None:
    with veth_pair_or_skip() as pair, capturing(pair) as (capture, sending):
        ended = threading.Event()

        def flood() -> None:
            while not ended.wait(0.005):  # more often than a block retires
                sending.send(bytes(HEAD / ARP()))

        sender = threading.Thread(target=flood)
        sender.start()
        try:
            capture.start()
            sending.send(bytes(answer(FLOW, GOOD)))
            stopping = threading.Thread(target=capture.stop, daemon=True)
            stopping.start()
            stopping.join(5)
            assert not stopping.is_alive()
        finally:
            ended.set()
            sender.join()
    report = capture.report()
    assert report.answers == 1
    assert report.answers + sum(report.others.values()) == report.kernel_packets


def test_a_fault_of_the_reader_is_counted_and_the_thread_continues() -> None:
    with veth_pair_or_skip() as pair, capturing(pair) as (capture, sending):
        capture.columns[0].t3.append(0)
        broken = threading.Event()

        def fail(*_: object) -> None:
            if broken.is_set():  # perhaps a frame of the kernel, in one block with the answer
                return
            broken.set()
            raise RuntimeError("broken on purpose")

        capture._count_other = fail  # type: ignore[method-assign,assignment]
        capture.start()
        sending.send(bytes(HEAD / ARP()))
        assert broken.wait(5)
        sending.send(bytes(answer(FLOW, GOOD)))
        capture.stop()
        report = capture.report()
    assert report.faults >= 1
    assert report.answers == 1
    assert any("broken on purpose" in note for note in report.notes)


def test_the_pcap_has_the_frames_sent_and_received(tmp_path: Path) -> None:
    with veth_pair_or_skip() as pair, reflector_process(pair.guest) as reflector:
        with TrafficSession(pair.station, [FLOW], StreamSettings(1000, count=50)) as session:
            session.wait_sent(Deadline(10, "the stream to be sent"))
            session.finish()
        result = session.result(reflector.finish())
    sent = sent_frames(FLOW, result.flows[0].sent_ns)
    stamps = {item.time_ns for item in session.frames if classify(item.content) is FrameClass.FOREIGN}
    assert write_pcap(tmp_path / "x.pcap", [*session.frames, *sent]) == len(session.frames) + 50
    with PcapReader(str(tmp_path / "x.pcap")) as reader:
        assert reader.nano
        frames = list(reader)
    times = [round(frame.time * 10**9) for frame in frames]
    assert times == sorted(times)
    assert stamps <= set(times)
    assert set(result.flows[0].sent_ns) <= set(times)
    template = FrameTemplate(FLOW)
    first = next(frame for frame in frames if frame.src == STATION.mac and IP in frame)
    assert bytes(first) == bytes(template.patch(0, result.flows[0].sent_ns[0]))
