"""State of the NIC: the kernel's on a real tap, if this machine has one, and QEMU's in samples."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.errors import EnvironmentFailure, InstrumentError, QmpRefused
from cprlib.linux.ioctls import TUNSETOFFLOAD, TUNSETQUEUE, TUNSETVNETHDRSZ
from cprlib.linux.tap import IFF_DETACH_QUEUE, interface_offloads, open_tap, read_tap_queues
from cprlib.linux.topology import Topology, build_topology
from cprlib.qemu.nic_state import differences, facts_from_filter, vhost_started
from cprlib.qemu.qmp import QmpConnection

pytestmark = pytest.mark.fast

TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02


@pytest.fixture
def topology() -> Iterator[Topology]:
    try:
        with build_topology() as built:
            built.add_tap("tap0", queues=2)
            yield built
    except EnvironmentFailure as error:
        pytest.skip(error.one_line())


def test_detached_queue_and_header_are_seen(topology: Topology) -> None:
    with topology.switch.entered():
        opened = [open_tap("tap0", multi_queue=True) for _ in range(2)]
    try:
        fcntl.ioctl(opened[1], TUNSETQUEUE, struct.pack("16sH22x", b"", IFF_DETACH_QUEUE))
        fcntl.ioctl(opened[0], TUNSETVNETHDRSZ, struct.pack("=i", 12))
        try:
            queues = {queue.number: queue for queue in read_tap_queues(os.getpid())}
        except InstrumentError as error:
            pytest.skip(error.one_line())
        first, second = (queues[number] for number in opened)
    finally:
        for number in opened:
            os.close(number)
    assert (first.detached, second.detached) == (False, True)
    assert first.header_bytes == second.header_bytes == 12
    assert first.interface == "tap0"
    assert "vnet_hdr" in first.flags
    assert differences(first.facts(), second.facts()) == ("queue was attached, is detached",)


def test_reading_leaves_no_descriptor(topology: Topology) -> None:
    with topology.switch.entered():
        opened = open_tap("tap0", multi_queue=True)
    try:
        before = sorted(os.listdir("/proc/self/fd"))
        try:
            read_tap_queues(os.getpid())
        except InstrumentError as error:
            pytest.skip(error.one_line())
        interface_offloads(topology.switch, "tap0")
        assert sorted(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(opened)


def test_offloads_are_those_of_the_taps_reader(topology: Topology) -> None:
    with topology.switch.entered():
        opened = open_tap("tap0", multi_queue=True)
    try:
        fcntl.ioctl(opened, TUNSETOFFLOAD, 0)
        before = interface_offloads(topology.switch, "tap0")
        fcntl.ioctl(opened, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
        after = interface_offloads(topology.switch, "tap0")
    finally:
        os.close(opened)
    assert before["tx-tcp-segmentation"] == "off"
    assert "tx-tcp-segmentation was off, is on" in differences(before, after)


def test_interface_that_is_not_there_is_an_error(topology: Topology) -> None:
    with pytest.raises(InstrumentError, match="nosuch"):
        interface_offloads(topology.switch, "nosuch")


def test_process_that_is_gone_is_an_error() -> None:
    with pytest.raises(InstrumentError):
        read_tap_queues(2**22 + 1)


def test_filter_facts_do_not_depend_on_order() -> None:
    table = ["33:33:00:00:00:01", "01:00:5e:00:00:01"]
    one = facts_from_filter({"name": "nic0", "promiscuous": False, "multicast-table": table, "vlan-table": [5, 0]})
    other = facts_from_filter({"name": "x", "promiscuous": False, "multicast-table": table[::-1], "vlan-table": [0, 5]})
    assert one == other
    assert one["vlan-table"] == "0 5"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": "1"}, {"a": "1"}, ()),
        ({"a": "1"}, {"a": "2"}, ("a was 1, is 2",)),
        ({"a": "1"}, {}, ("a was 1, is absent",)),
        ({}, {"a": "1"}, ("a was absent, is 1",)),
        ({"a": "1"}, {"a": ""}, ("a was 1, is empty",)),
        ({"a": "p q r s"}, {"a": "p q r t"}, ("a lost s and gained t",)),
        ({"a": "p q r s"}, {"a": "p q r"}, ("a lost s",)),
    ],
)
def test_differences_are_one_line_each(
    before: dict[str, str], after: dict[str, str], expected: tuple[str, ...]
) -> None:
    assert differences(before, after) == expected


def refusing(error_class: str) -> QmpConnection:
    def execute(*_: object) -> None:
        raise QmpRefused("ask", "vhost device has not started yet", error_class=error_class)

    return cast(QmpConnection, SimpleNamespace(name="source", execute=execute))


def test_vhost_is_started_where_qemu_has_the_state_of_its_queue() -> None:
    assert vhost_started(cast(QmpConnection, SimpleNamespace(execute=lambda *_: {"name": "virtio-net"})))
    assert not vhost_started(refusing("GenericError"))
    with pytest.raises(InstrumentError, match="has no command x-query-virtio-vhost-queue-status"):
        vhost_started(refusing("CommandNotFound"))
