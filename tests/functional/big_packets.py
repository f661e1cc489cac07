"""Packets larger than the MTU, in both directions: a wrong header length or lost offload corrupts or splits them.

TCP goes in segments of up to 64 KiB with the checksum left to the receiver (GSO, CHECKSUM_PARTIAL), as far as the tap's
offloads allow. The header before each packet describes them; source and target must agree on its length.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.guest.replies import NicInfo, TcpResult
from cprlib.linux.topology import GUEST
from cprlib.qemu.nic_state import GUEST_CSUM, GUEST_TSO4
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.probes import TRAFFIC_ANSWER_S
from cprlib.traffic.stamp import MINIMUM_SIZE, STAMP_PORT, UNMEASURED_SSID, sender_packet
from cprlib.traffic.tcp import TcpEndpoint, TcpEndpointReport, TcpEndpointSettings, TcpRole, content_errors
from cprlib.update.guest_traffic import tcp_end_s

ETHERNET_HEADER = 14  # bytes
TRANSFER_BYTES = 600_000
FLOWING_RATE = 100_000  # bytes/s
PORTS = {TcpRole.SOURCE: 5101, TcpRole.SINK: 5102}  # by the station's role; the next transfer takes others
DATAGRAM_BYTES, DATAGRAMS = 9000, 5
FIRST_BYTES_S = 20.0
MOST_RETRANSMITTED = 40  # segments of some 400 without a loss: a busy machine answers late


@dataclass(slots=True)
class BigPackets:
    """Transfers between the station and a case's guest.

    :ivar segments: whether the guest's NIC takes segments larger than the MTU, when this is created.
    """

    case: MeasuredCase
    transfers: int = 0
    segments: bool = field(init=False)

    def __post_init__(self) -> None:
        self.segments = self.case.guest.agent.network().nic().agreed_on(GUEST_CSUM, GUEST_TSO4)
        if not self.segments:
            self.case.note("large segments to the guest", "not tested: its NIC takes none")

    def transfer(self, when: str, *, segments_to_guest: bool) -> None:
        """TCP in each direction and UDP datagrams of several fragments arrive unchanged.

        :param segments_to_guest: whether segments larger than the MTU are to reach the guest in one piece, if its NIC
            takes them at all.
        """
        segments_to_guest = segments_to_guest and self.segments
        to_guest = self._transfer(TcpRole.SOURCE, when)
        self._transfer(TcpRole.SINK, when)
        if to_guest is not None:
            full = self.case.parameters.path_mtu + ETHERNET_HEADER
            relation = "larger than" if segments_to_guest else "not larger than"
            self.case.expect(
                "segments-to-guest",
                (to_guest > full) == segments_to_guest,
                f"frames on average {relation} {full} bytes",
                f"{to_guest:.0f} bytes",
                f"TCP reaches the guest in frames of {to_guest:.0f} bytes: its receive offloads have no effect",
                when=when,
            )
        self._datagrams(when)

    def _transfer(self, role: TcpRole, when: str) -> float | None:
        """One TCP connection.

        :returns: mean bytes of a frame that the guest received; None when it is not known.
        """
        guest = self.case.guest
        self.transfers += 1
        port = PORTS[role] + 10 * self.transfers
        before = guest.agent.network().nic()
        index = guest.agent.start_tcp(role.opposite, port, byte_count=0 if role is TcpRole.SOURCE else TRANSFER_BYTES)
        with guest.topology.station.entered():
            end = TcpEndpoint(TcpEndpointSettings(role, port, GUEST.ipv4, rate=100_000_000, byte_count=TRANSFER_BYTES))
        with end:
            result = self._finished(index)
            report = end.finish(Deadline(tcp_end_s(guest), "the connection to be closed"))
        after = guest.agent.network().nic()
        self._judge(role, when, report, result, TRANSFER_BYTES)
        return _mean_received(before, after)

    @contextlib.contextmanager
    def flowing(self, when: str) -> Iterator[None]:
        """TCP in each direction, at an even rate, while the body runs: equal content at both ends."""
        guest = self.case.guest
        self.transfers += 1
        with contextlib.ExitStack() as stack:
            running = []
            for role, port in PORTS.items():
                index = guest.agent.start_tcp(role.opposite, port, rate=FLOWING_RATE)
                with guest.topology.station.entered():
                    end = stack.enter_context(
                        TcpEndpoint(TcpEndpointSettings(role, port, GUEST.ipv4, rate=FLOWING_RATE))
                    )
                _wait_flowing(end, port)
                running.append((role, index, end))
            yield
            for role, index, end in running:
                if role is TcpRole.SINK:
                    guest.agent.stop_tcp(index)
                report = end.finish(Deadline(tcp_end_s(guest), "the connection to be closed"))
                self._judge(role, when, report, self._finished(index), None)

    def _judge(
        self, role: TcpRole, when: str, station: TcpEndpointReport, guest: TcpResult | None, byte_count: int | None
    ) -> None:
        direction = "to" if role is TcpRole.SOURCE else "from"
        problems = _problems(station, guest, byte_count)
        again = max(station.retransmissions, guest.retransmissions) if guest else 0
        if byte_count is not None and again > MOST_RETRANSMITTED:
            problems.append(f"{again} segments were sent again: large ones do not arrive")
        self.case.expect_empty(
            f"tcp-{direction}-guest",
            problems,
            f"{'all' if byte_count is None else byte_count} bytes, equal content at both ends, few segments sent again",
            f"TCP {direction} the guest {when.replace('-', ' ')}",
            when=when,
        )

    def _finished(self, index: int) -> TcpResult | None:
        deadline = Deadline(tcp_end_s(self.case.guest), "the guest's end of the connection to finish", Awaited.GUEST)
        try:
            return self.case.guest.agent.finished_tcp(index, deadline)
        except DeadlineExceeded:
            return None

    def _datagrams(self, when: str) -> None:
        """UDP datagrams of several fragments, there and back."""
        good = 0
        with connected_to_reflector(self.case) as opened:
            for packet in stamp_datagrams(DATAGRAMS, DATAGRAM_BYTES, seed=self.transfers):
                opened.settimeout(Deadline(TRAFFIC_ANSWER_S, "an answer").remaining)
                try:
                    opened.send(packet)
                    good += came_back(packet, opened.recv(65536))
                except OSError:  # none came, or the port is unreachable
                    break
        meaning = f"datagrams of {DATAGRAM_BYTES} bytes that came back unchanged {when.replace('-', ' ')}"
        self.case.expect_equal("datagrams", good, DATAGRAMS, meaning, when=when)


@contextlib.contextmanager
def connected_to_reflector(case: MeasuredCase) -> Iterator[socket.socket]:
    """A UDP socket of the station, connected to the guest's reflector."""
    with case.guest.topology.station.entered():
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with opened:
        opened.bind(("0.0.0.0", case.ports.take()))  # noqa: S104 - a namespace of our own
        opened.connect((GUEST.ipv4, STAMP_PORT))
        yield opened


def stamp_datagrams(count: int, size: int, seed: int) -> list[bytes]:
    """Test packets of no measured session, with random bytes behind the part that the reflector rewrites.

    :param size: of each, in bytes.
    """
    content = random.Random(seed)  # noqa: S311 - no secret
    return [
        sender_packet(number, 1, UNMEASURED_SSID) + content.randbytes(size - MINIMUM_SIZE) for number in range(count)
    ]


def came_back(sent: bytes, answer: bytes) -> bool:
    """Whether the reflector returned a datagram unchanged, apart from the part that it rewrites."""
    return answer[MINIMUM_SIZE:] == sent[MINIMUM_SIZE:]


def _wait_flowing(end: TcpEndpoint, port: int) -> None:
    purpose = f"bytes on TCP port {port}, to or from the guest"
    Deadline(FIRST_BYTES_S, purpose, Awaited.GUEST).poll(lambda: end.byte_count > 0, 0.02)


def _mean_received(before: NicInfo, after: NicInfo) -> float | None:
    packets = after.counters["rx_packets"] - before.counters["rx_packets"]
    return (after.counters["rx_bytes"] - before.counters["rx_bytes"]) / packets if packets else None


def _problems(station: TcpEndpointReport, guest: TcpResult | None, byte_count: int | None) -> list[str]:
    """What is wrong with a transfer.

    :param guest: None when the guest's end did not finish.
    :param byte_count: to be transferred; None when that is not known.
    """
    if guest is None:
        return [f"it stopped after {station.byte_count} bytes"]
    problems = list(content_errors(station, guest.byte_count, guest.crc32, guest.error))
    if byte_count not in (None, station.byte_count) and not problems:
        problems.append(f"{station.byte_count} of {byte_count} bytes were transferred")
    return problems
