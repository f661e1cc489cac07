"""The reader of device state in a migration stream, on streams that are built here."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cprlib.errors import InstrumentError
from cprlib.evidence.records import Difference, StatePair
from cprlib.qemu.virtio_state import virtio_values
from cprlib.qemu.vmstate import device_state, sent_format
from cprlib.testing.equivalence import compare_device_states
from cprlib.update.mechanism import Mechanism
from cprlib.update.running_guest import RunningGuest

pytestmark = pytest.mark.fast

MACHINE = SimpleNamespace(settings=SimpleNamespace(accelerator="tcg"))
GUEST = cast(RunningGuest, SimpleNamespace(mechanism=Mechanism.CPR, machine=MACHINE))

RAM = b"\x01\0\0\0\x02\x03ram" + b"\0\x06 any bytes \x04" * 9 + b"\x7e\0\0\0\x02"
RTC: dict[str, Any] = {
    "name": "mc146818rtc",
    "instance_id": 0,
    "vmsd_name": "mc146818rtc",
    "version": 3,
    "fields": [
        {"name": "cmos_data", "type": "buffer", "size": 20},
        {"name": "cmos_index", "type": "uint8", "size": 1},
        {"name": "lines", "array_len": 2, "type": "uint16", "size": 2},
        {
            "name": "irq",
            "type": "struct",
            "size": 3,
            "struct": {
                "vmsd_name": "irq",
                "version": 1,
                "fields": [
                    {"name": "level", "type": "uint8", "size": 1},
                    {"name": "mask", "type": "uint16", "size": 2},
                ],
            },
        },
        {"name": "queue", "type": "qtailq", "size": 3, "fields": [{"name": "item", "type": "uint8", "size": 1}]},
    ],
    "subsections": [
        {"vmsd_name": "mc146818rtc/lost", "version": 1, "fields": [{"name": "lost", "type": "uint32", "size": 4}]}
    ],
}
RTC_BODY = (
    bytes(range(20))
    + b"\x0a"
    + b"\0\1\0\2"
    + b"\1\xff\xfe"
    + b"\1\x07\0"
    + b"\5\x10mc146818rtc/lost\0\0\0\1"
    + b"\0\0\0\x09"
)
SERIAL: dict[str, Any] = {
    "name": "serial",
    "instance_id": 1,
    "vmsd_name": "serial",
    "version": 3,
    "fields": [{"name": "lcr", "type": "uint8", "size": 1}],
}


def section(device: Mapping[str, Any], body: bytes, number: int = 7) -> bytes:
    name = str(device["name"]).encode()
    head = b"\4" + struct.pack(">IB", number, len(name)) + name + struct.pack(">II", device["instance_id"], 3)
    return head + body + b"\x7e" + struct.pack(">I", number)


def stream(*devices: tuple[Mapping[str, Any], bytes], described: Sequence[Mapping[str, Any]] | None = None) -> bytes:
    parts = [section(device, body) for device, body in devices]
    shown = [device for device, _ in devices] if described is None else described
    text = json.dumps({"page_size": 4096, "devices": shown}).encode()
    return b"QEVM\0\0\0\3" + RAM + b"".join(parts) + b"\0\6" + struct.pack(">I", len(text)) + text


def test_every_field_has_a_path() -> None:
    assert device_state(stream((RTC, RTC_BODY), (SERIAL, b"\x13"))) == {
        "sections/000": "mc146818rtc#0 version 3, fields 3",
        **{f"mc146818rtc#0/cmos_data/{offset:03x}": f"{offset:02x}" for offset in range(20)},
        "mc146818rtc#0/cmos_index": "0a",
        "mc146818rtc#0/lines[0]": "0001",
        "mc146818rtc#0/lines[1]": "0002",
        "mc146818rtc#0/irq/level": "01",
        "mc146818rtc#0/irq/mask": "fffe",
        "mc146818rtc#0/queue": "010700",
        "mc146818rtc#0/lost/version": "1",
        "mc146818rtc#0/lost/lost": "00000009",
        "sections/001": "serial#1 version 3, fields 3",
        "serial#1/lcr": "13",
    }


def test_a_passed_descriptor_comes_with_a_byte_that_is_not_counted() -> None:
    """As a netdev of migration parameter ``local`` has it."""
    tap = {**SERIAL, "name": "tap", "fields": [{"name": "fd", "type": "fd", "size": 0}, *SERIAL["fields"]]}
    found = device_state(stream((SERIAL, b"\x13"), (tap, b" \x14")))
    assert (found["serial#1/lcr"], found["tap#1/fd"], found["tap#1/lcr"]) == ("13", "20", "14")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with nothing"),
        (b"GET / HTTP/1.1", "begins with 47 45"),
        (b"QEVM\0\0\0\3" + RAM, "no description"),
        (stream((RTC, RTC_BODY))[:-1], "no description"),
        (stream((RTC, RTC_BODY[:-1])), "no section mc146818rtc"),
        (stream((RTC, RTC_BODY), described=[SERIAL]), "no section serial"),
        (stream((SERIAL, b"\x13"), described=[{**SERIAL, "fields": [{"name": "lcr", "size": -1}]}]), "its description"),
        (stream((SERIAL, b"\x13"), described=[{**SERIAL, "fields": [{"name": "x", "size": 1 << 29}]}]), "no section"),
        (stream((SERIAL, b"\x13"), described=[{"name": "serial"}]), "its description"),
    ],
)
def test_another_layout_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InstrumentError, match=message):
        device_state(data)


def config(vectors: int) -> bytes:
    """Configuration space of a conventional PCI device with an MSI-X capability."""
    space = bytearray(256)
    space[:4], space[6], space[0x34] = b"\xf4\x1a\0\x10", 0x10, 0x98
    space[0x98:0x9C] = b"\x11\0" + struct.pack("<H", vectors - 1)
    return bytes(space)


def virtio_net(pairs: int = 2, device: bytes | None = None, rss: bytes = b"") -> bytes:
    queues = 2 * pairs + 1
    vectors = queues + 1
    pci = b"\2\0\0\0" + config(vectors) + bytes(16) + bytes(16) * vectors + bytes((vectors + 7) // 8) + b"\0\0"
    head = b"\x0f\0\0\1" + b"\0\0\0\x04" + struct.pack(">I", 12) + b"\x52\x54\0\x75\0\2\1\0\2\0\0\0"
    vqs = struct.pack(">I", queues) + b"".join(struct.pack(">IQHH", 256, 4096, n, n) for n in range(queues))
    net = b"\x52\x54\0\x75\0\2" + bytes(4) + b"\0\0\0\x0c" + b"\0\1" + b"\1\0" + b"\0\0\0\2" + b"\x33" * 12 + bytes(512)
    net += b"\0\0\0\1" + bytes(7) + struct.pack(">HHI", pairs, pairs, 0) + b"\0\0\0\0\0\0\0\x1f" + rss
    sections = b"\5\x15virtio/64bit_features\0\0\0\1" + b"\0\0\1\x30\0\0\0\4"
    entry = struct.pack(">QQ", 0x1000, 0x2000)
    sections += b"\5\x11virtio/virtqueues\0\0\0\1" + entry + bytes(16) + entry
    return pci + head + vqs + (net if device is None else device) + sections


def test_state_of_virtio_net() -> None:
    values = dict(virtio_values(virtio_net()))
    assert values["pci/config/000"] == "f41a0010"
    assert values["msix[5]/data"] == "00000000"
    assert (values["status"], values["queue_sel"], values["features"]) == ("0f", "0001", "00000004")
    assert [values[f"config/{offset:03x}"] for offset in (0, 6)] == ["5254", "0100"]
    assert values["queue[4]/last_avail_idx"] == "0004"
    assert (values["net/mac"], values["net/promisc"], values["net/mac_table[1]"]) == (
        "525400750002",
        "01",
        "33:33:33:33:33:33",
    )
    assert (values["net/curr_queue_pairs"], values["net/tx_waiting[1]"]) == ("2", "00000000")
    assert (values["net/link"], values["net/announce"], values["net/status"]) == ("1", "0", "0000")
    assert values["net/curr_guest_offloads"] == "000000000000001f"
    assert values["64bit_features"] == "0000013000000004"
    assert values["virtqueues/queue[2]/used"] == "0000000000002000"
    assert "virtqueues/queue[1]/used" not in values
    assert not any(name.startswith(("undescribed", "device")) for name in values)


def test_rss_of_virtio_net() -> None:
    rss = (
        b"\5\x15virtio-net-device/rss\0\0\0\1" + b"\1\1\0" + b"\0\0\0\x3f" + b"\0\2" + b"\0\0" + b"k" * 40 + b"\0\0\0\1"
    )
    values = dict(virtio_values(virtio_net(rss=rss)))
    assert values["net/rss/enabled"] == "01"
    assert values["net/rss/table"] == "00000001"


def test_what_is_not_known_is_kept_as_bytes() -> None:
    values = dict(virtio_values(virtio_net(device=b"\xaa" * 20)))
    assert (values["device/000"], values["device/010"]) == ("aa" * 16, "aa" * 4)
    assert dict(virtio_values(b"\xbb" * 17)) == {"undescribed/000": "bb" * 16, "undescribed/010": "bb"}


def test_a_register_that_a_target_lost_is_a_difference() -> None:
    earlier, later = stream((RTC, RTC_BODY), (SERIAL, b"\x13")), stream((RTC, b"\7" + RTC_BODY[1:]), (SERIAL, b"\x03"))
    record = compare_device_states(GUEST, earlier, later, StatePair.DEVICE_STATE, "update 1")
    assert record.differences == (Difference("vmstate/serial#1/lcr", "13", "03"),)
    assert record.allowed == 1  # the seconds of the clock
    paused = compare_device_states(GUEST, earlier, later, StatePair.PAUSED, "update 1")
    assert paused.differences == record.differences  # the clock runs while the guest does not
    unread = compare_device_states(GUEST, earlier, later[:-1], StatePair.DEVICE_STATE, "update 1")
    assert (unread.compared, list(unread.unread)) == (0, ["vmstate"])


def test_a_packet_that_waited_in_a_netdev_is_no_state_of_later() -> None:
    """Its section is sent only while a packet waits (tap_waiting_needed(), net/tap.c with patch 12)."""
    names = {"name": "tap/net0", "vmsd_name": "tap/net0", "instance_id": 0, "version": 1}
    waiting = {"name": "waiting", "type": "uint32", "size": 4}
    buffer, enabled = {"name": "buf", "type": "buffer", "size": 300}, {"name": "enabled", "type": "bool", "size": 1}
    waits = {**names, "fields": [waiting, buffer]}, struct.pack(">I", 300) + bytes(300)
    disabled = {**names, "fields": [waiting, enabled]}, bytes(5)
    others = (RTC, RTC_BODY), (SERIAL, b"\x13")

    def differences(first: Any, comparison: StatePair) -> tuple[str, ...]:
        record = compare_device_states(GUEST, stream(first, *others), stream(*others), comparison, "update 1")
        return tuple(item.path for item in record.differences)

    assert differences(waits, StatePair.DEVICE_STATE) == ()
    assert differences(waits, StatePair.PAUSED)[:2] == ("vmstate/tap/net0#0/waiting", "vmstate/tap/net0#0/buf/000")
    assert differences(disabled, StatePair.DEVICE_STATE) == ("vmstate/tap/net0#0/enabled",)


def test_the_format_of_a_stream_has_each_structure_of_each_section() -> None:
    assert sent_format(stream((SERIAL, b"\3"), (RTC, RTC_BODY))) == {
        "serial#1": {"": "version 3: lcr uint8 1"},
        "mc146818rtc#0": {
            "": "version 3: cmos_data buffer 20, cmos_index uint8 1, lines uint16 2 x 2, irq struct 3, queue qtailq 3",
            "irq": "version 1: level uint8 1, mask uint16 2",
            "queue": "version 0: item uint8 1",
            "lost": "version 1: lost uint32 4",
        },
    }


def test_a_packed_ring_at_its_beginning_is_listed_as_one_that_has_moved() -> None:
    def listed(last_avail_idx: int) -> dict[str, str]:
        section = b"\x05\x18virtio/packed_virtqueues" + struct.pack(">I", 1)
        return dict(virtio_values(virtio_net() + section + struct.pack(">HBHBI", last_avail_idx, 0, 0, 0, 0)))

    moved = set(listed(7).items()) - set(listed(0).items())
    assert moved == {("packed_virtqueues/queue[0]/last_avail_idx", "0007")}
