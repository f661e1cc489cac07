"""Malformed and foreign frames, and how many of each kind the instrument must count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from cprlib.guest.replies import ReflectorCounters
from cprlib.linux.topology import GUEST, PORT, STATION, STATION_INTERFACE, Topology
from cprlib.traffic.flow import Flow, flows_between
from cprlib.traffic.frames import FrameClass
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.sockets import open_sending
from cprlib.traffic.stamp import STAMP_PORT, reflector_packet, sender_packet

EACH = 5
INVALID = "invalid"
NEVER_SENT = 1_000_000  # a sequence number


class MalformedFrames:
    """A set of frames for the flow with this source port.

    :param port: of the station; the flow's target is the reflector.
    """

    def __init__(self, port: int) -> None:
        self._flow = flows_between(count=1, first_port=port)[0]
        self._to_station = [(kind, bytes(frame)) for kind, frame in _answers(self._flow)]
        self._to_guest = [(kind, bytes(frame)) for kind, frame in _test_packets(self._flow)]

    def send(self, topology: Topology) -> None:
        """Send each a few times: out of the switch's port as if from the guest, and out of the station."""
        for namespace, interface, frames in (
            (topology.switch, PORT, self._to_station),
            (topology.station, STATION_INTERFACE, self._to_guest),
        ):
            with namespace.entered():
                opened = open_sending(interface)
            with opened:
                for _ in range(EACH):
                    for _kind, frame in frames:
                        opened.send(frame)

    @property
    def invalid_answers(self) -> int:
        """Number of frames with the format of an answer."""
        return EACH * sum(kind == INVALID for kind, _ in self._to_station)

    @property
    def data(self) -> tuple[list[bytes], list[bytes]]:
        """The frames to the station, and those to the guest."""
        return [frame for _, frame in self._to_station], [frame for _, frame in self._to_guest]

    def at_capture(self, result: TrafficResult) -> Iterator[str]:
        """The kinds that the capture did not count exactly."""
        expected = Counter(kind for kind, _ in self._to_station)
        seen = dict(result.instrument.capture.others)
        seen[INVALID] = sum(flow.invalid for flow in result.flows)
        expected[FrameClass.FOREIGN.value] += 1  # the reflector answers the other session
        for kind, number in expected.items():
            if kind == FrameClass.ARP and seen.get(kind, 0) > number * EACH:
                continue  # both ends send ARP too
            if seen.get(kind, 0) != number * EACH:
                yield f"{seen.get(kind, 0)} {kind} at the capture instead of {number * EACH}"
        if result.instrument.log_foreign != EACH:
            yield f"{result.instrument.log_foreign} of another session in the reflector's log instead of {EACH}"
        if result.instrument.capture.faults:
            yield f"{result.instrument.capture.faults} faults of the capture: {result.instrument.capture.notes}"
        if any(flow.not_in_log for flow in result.flows):
            yield "answers that are not in the log"

    def differences(self, result: TrafficResult, reflector: ReflectorCounters) -> Iterator[str]:
        """The kinds that were not counted exactly, at both ends."""
        yield from self.at_capture(result)
        for kind, count in (("short", reflector.short), ("corrupt", reflector.corrupt)):
            number = EACH * sum(sent == kind for sent, _ in self._to_guest)
            if count != number:
                yield f"{count} {kind} at the reflector instead of {number}"


def _answers(flow: Flow) -> Iterator[tuple[str, Packet]]:
    """Frames to the station, with the kind that each must be counted as."""
    head = Ether(src=GUEST.mac, dst=STATION.mac)
    network = IP(src=flow.target, dst=flow.source)
    ports = UDP(sport=flow.target_port, dport=flow.source_port)
    answer = Raw(reflector_packet(0, 3, 2, NEVER_SENT, 1))
    yield INVALID, head / network / ports / answer
    yield INVALID, head / network / ports / Raw(reflector_packet(0, 3, 2, 0, 1))  # another T1
    yield FrameClass.TRUNCATED, head / network / ports / Raw(bytes(20))
    yield FrameClass.TRUNCATED, head / network / UDP(sport=flow.target_port, dport=flow.source_port, len=20) / answer
    yield FrameClass.FOREIGN, head / network / UDP(sport=flow.target_port, dport=9) / answer
    yield FrameClass.FOREIGN, head / IP(src="10.75.0.99", dst=flow.source) / ports / answer
    yield FrameClass.FOREIGN, Ether(src=GUEST.mac, dst=STATION.mac, type=0x88B5) / Raw(bytes(46))
    yield FrameClass.FOREIGN, Ether(src=GUEST.mac, dst=STATION.mac, type=0x0800) / Raw(bytes(4))  # truncated
    yield FrameClass.FRAGMENT, head / IP(src=flow.target, dst=flow.source, frag=3, flags="MF") / ports / answer
    yield FrameClass.ICMP, head / network / ICMP(type=3, code=1) / Raw(bytes(28))
    yield FrameClass.ARP, head / ARP(op=2, hwsrc=GUEST.mac, psrc=flow.target, hwdst=STATION.mac, pdst=flow.source)


def _test_packets(flow: Flow) -> Iterator[tuple[str, Packet]]:
    """Frames to the guest."""
    head = Ether(src=STATION.mac, dst=GUEST.mac)
    network = IP(src=flow.source, dst=flow.target)
    other = UDP(sport=flow.source_port - 1, dport=STAMP_PORT)
    packet = sender_packet(7, 1)
    yield "short", head / network / other / Raw(packet[:20])
    yield "short", head / network / UDP(sport=flow.source_port, dport=STAMP_PORT) / Raw(packet[:43])
    yield "corrupt", head / network / other / Raw(packet[:12] + bytes(32))  # an error estimate of multiplier 0
    yield "foreign", head / network / other / Raw(packet)
    yield "checksum", head / network / UDP(sport=flow.source_port, dport=STAMP_PORT, chksum=0xBAD) / Raw(packet)
    yield "truncated", head / IP(src=flow.source, dst=flow.target, len=200) / Raw(bytes(10))
