"""Queues of a macvtap on the real kernel, if this machine has one."""

import fcntl
import os
import struct
from collections.abc import Iterator

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import EnvironmentFailure
from cprlib.linux.counters import read_counters
from cprlib.linux.descriptors import read_table
from cprlib.linux.ioctls import TUNSETQUEUE
from cprlib.linux.tap import IFF_DETACH_QUEUE, open_tap, read_tap_queues
from cprlib.linux.topology import GUEST, STATION, STATION_INTERFACE, Topology, build_topology
from cprlib.qemu.netdev import TapNetdev, TapSource, opened_fds
from cprlib.traffic.sockets import open_sending

pytestmark = pytest.mark.fast


@pytest.fixture
def topology() -> Iterator[Topology]:
    try:
        with build_topology() as built:
            built.add_macvtap("tap0", GUEST.mac)
            with built.switch.entered():
                os.close(open_tap("tap0", macvtap=True))
            yield built
    except EnvironmentFailure as error:
        pytest.skip(error.one_line())


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 2000)
    except BlockingIOError:
        return b""


def test_queues_are_taps_and_the_kernel_reports_less_of_them(topology: Topology) -> None:
    before = {row.number for row in read_table(os.getpid()).of_kind("tap")}
    netdev = TapNetdev(queues=2, tap_source=TapSource.MACVTAP)
    with topology.switch.entered(), opened_fds(netdev) as files:
        rows = {row.number for row in read_table(os.getpid()).of_kind("tap")} - before
        assert rows == set(files.tap)
        fcntl.ioctl(files.tap[1], TUNSETQUEUE, struct.pack("16sH22x", b"", IFF_DETACH_QUEUE))
        first, second = (queue for queue in read_tap_queues(os.getpid()) if queue.number in files.tap)
    assert first.facts() == second.facts()
    assert (second.interface, second.detached, second.send_buffer) == ("tap0", None, None)
    assert {"multi_queue", "vnet_hdr"} <= set(second.flags)


def test_packets_towards_the_guest_count_as_those_of_a_tap(topology: Topology) -> None:
    with topology.switch.entered():
        opened = open_tap("tap0", macvtap=True)
    try:
        os.set_blocking(opened, False)
        frame = bytes.fromhex((GUEST.mac + STATION.mac).replace(":", "")) + b"\x88\xb5" + bytes(46)
        with topology.station.entered(), open_sending(STATION_INTERFACE) as socket:
            socket.send(frame)
        Deadline(5, "a frame to arrive").poll(lambda: _read(opened).endswith(frame), 0.01)
        counted = read_counters(topology.switch, "tap0")
    finally:
        os.close(opened)
    assert (counted.tx_packets, counted.rx_packets) == (1, 0)


def test_interface_that_is_no_macvtap_is_an_error(topology: Topology) -> None:
    with topology.switch.entered():
        for name in ("br0", "tap7"):
            with pytest.raises(EnvironmentFailure, match=f"open macvtap {name}"):
                open_tap(name, macvtap=True)
