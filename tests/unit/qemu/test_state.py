"""The state of a QEMU as a flat mapping: values of QMP and of HMP's indented texts by path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from cprlib.errors import QmpRefused
from cprlib.qemu.qmp import Arguments, QmpConnection
from cprlib.qemu.state import (
    NOT_SENT,
    OUTLINES,
    QUERIES,
    apic_registers,
    flatten,
    outline,
    read_objects,
    read_queries,
    read_registers,
)

pytestmark = pytest.mark.fast

QTREE = """\
bus: main-system-bus
  type System
  dev: virtio-net-pci, id "nic0"
    mac = "52:54:00:75:00:02"
    bus: virtio-bus
      dev: virtio-net-device, id ""
        gso = true
        gso = true
"""


def test_json_by_path() -> None:
    value = {"a": {"b": True, "c": None}, "vlans": [10, 2], "nics": [{"name": "nic0", "x": 1}, {"x": 2}], "none": []}
    assert dict(flatten(value, "q")) == {
        "q/a/b": "true",
        "q/a/c": "None",
        "q/vlans": "10 2",
        "q/nics/nic0/name": "nic0",
        "q/nics/nic0/x": "1",
        "q/nics/1/x": "2",
        "q/none": "",
    }


def test_equal_names_in_a_list_do_not_hide_each_other() -> None:
    assert dict(flatten([{"id": "a", "x": 1}, {"id": "a", "x": 2}]))["a [2]/x"] == "2"


def test_outline_has_the_lines_below_those_that_they_are_indented_under() -> None:
    values = outline(QTREE)
    device = 'bus: main-system-bus/dev: virtio-net-pci, id "nic0"'
    assert values[f"{device}/mac"] == '"52:54:00:75:00:02"'
    inner = 'dev: virtio-net-pci, id "nic0"/bus: virtio-bus/dev: virtio-net-device'
    assert values[f"{inner}/gso"] == "true"
    assert values[f"{inner}/gso [2]"] == "true"
    assert values["bus: main-system-bus/type System"] == ""


def test_order_of_an_outline_means_nothing() -> None:
    one, other = "address-space: cpu-memory-0\n", "address-space: KVM-SMRAM\n"
    end = "address-space: I/O\n  0000-ffff: io\n"
    assert outline(one + other + end) == outline(other + one + end)
    assert outline(one + other + end) != outline(one + one + end)


LAPIC = """\
dumping local APIC state for CPU 0

LVT0\t 0x00010700 active-hi edge  masked                      ExtINT (vec 0)
LVT1\t 0x00000400 active-hi edge                              NMI
LVTPC\t 0x00000400 active-hi edge                              NMI
LVTERR\t 0x000000fe active-hi edge                              Fixed  (vec 254)
LVTTHMR\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)
LVTT\t 0x000000ec active-hi edge                 one-shot     Fixed  (vec 236)
Timer\t DCR=0xb (divide by 1) initial_count = 62500 current_count = 12
SPIV\t 0x000001ff APIC enabled, focus=off, spurious vec 255
ISR\t (none)
IRR\t 236

APR 0x00 TPR 0x10 DFR 0x0f LDR 0x01 PPR 0x10
"""


def test_registers_of_a_local_apic_that_a_guest_sets_once() -> None:
    assert apic_registers(LAPIC) == {
        "LVT0": "0x00010700",
        "LVT1": "0x00000400",
        "LVTPC": "0x00000400",
        "LVTERR": "0x000000fe",
        "LVTTHMR": "0x00010000",
        "DCR": "0xb",
        "SPIV": "0x000001ff",
        "TPR": "0x10",
        "DFR": "0x0f",
        "LDR": "0x01",
    }
    assert apic_registers("No CPU available") == {}


class Replies:
    """A QMP connection that answers from a list of properties, and refuses what it does not know."""

    def __init__(self, objects: dict[str, dict[str, tuple[str, object]]], *, list_get: bool) -> None:
        self.objects = objects
        self.list_get = list_get
        self.sent: list[str] = []

    def _answer(self, command: str, arguments: Arguments | None) -> object:
        self.sent.append(command)
        words = arguments or {}
        if (
            command == "qom-list-get"
            and self.list_get
            and self.objects.keys() >= set(cast("list[str]", words["paths"]))
        ):
            return [
                {"properties": [{"name": n, "type": t, "value": v} for n, (t, v) in self.objects[str(path)].items()]}
                for path in cast("list[str]", words["paths"])
            ]
        if command == "qom-list" and words["path"] in self.objects:
            return [{"name": name, "type": kind} for name, (kind, _) in self.objects[str(words["path"])].items()]
        if command == "qom-get":
            return self.objects[str(words["path"])][str(words["property"])][1]
        if command == "query-cpus-fast":
            return [{"qom-path": "/cpu"}]
        if command == "x-query-virtio":
            return [{"name": "virtio-net", "path": "/machine/peripheral/nic0/virtio-backend"}]
        return QmpRefused(f"run {command}", "no such thing", error_class="GenericError")

    def execute(self, command: str, arguments: Arguments | None = None) -> object:
        return self._answer(command, arguments)

    def execute_all(self, commands: Sequence[tuple[str, Arguments | None]]) -> list[object]:
        return [self._answer(*item) for item in commands]


OBJECTS: dict[str, dict[str, tuple[str, object]]] = {
    "/": {"machine": ("child<x>", None), "objects": ("child<container>", None), "type": ("string", "container")},
    "/machine": {"peripheral": ("child<container>", None), "acpi": ("OnOffAuto", "auto")},
    "/machine/peripheral": {"nic0": ("child<virtio-net-pci>", None)},
    "/machine/peripheral/nic0": {"realized": ("bool", True), "mac": ("str", "52:54")},
    "/objects": {"ram0": ("child<memory-backend-memfd>", None)},
    "/objects/ram0": {"share": ("bool", True)},
    "/chardevs": {},
    "/cpu": {"apic-id": ("uint32", 0), "avx": ("bool", True)},
}


def test_all_objects_are_read_by_few_commands() -> None:
    connection = Replies(OBJECTS, list_get=True)
    values = read_objects(cast("QmpConnection", connection))
    assert values["machine/peripheral/nic0/mac"] == "52:54"
    assert values["objects/ram0/share"] == "true"
    assert connection.sent == ["qom-list-get"] * 5


def test_an_object_that_cannot_be_read_hides_no_other() -> None:
    objects = {**OBJECTS, "/machine/peripheral": {**OBJECTS["/machine/peripheral"], "gone": ("child<x>", None)}}
    values = read_objects(cast("QmpConnection", Replies(objects, list_get=True)))
    assert values["machine/peripheral/nic0/mac"] == "52:54"
    assert values["machine/peripheral/gone"] == "refused: no such thing"


def test_without_qom_list_get_the_type_shows_that_a_property_exists() -> None:
    values = read_objects(cast("QmpConnection", Replies(OBJECTS, list_get=False)))
    assert values == {
        "machine/acpi": "OnOffAuto",
        "objects/ram0/share": "bool",
        "machine/peripheral/nic0/realized": "true",
        "machine/peripheral/nic0/mac": "str",
        "cpu/apic-id": "0",
        "cpu/avx": "bool",
    }


class Monitor:
    """A QMP connection whose HMP has registers."""

    def execute_all(self, commands: Sequence[tuple[str, Arguments | None]]) -> list[object]:
        texts = {"info registers -a": "CPU#0\nCCS=1 CCD=2 CCO=EFLAGS\nMXCSR=00001f80\n", "info pic": "pic0: irr=01\n"}
        return [texts.get(str((arguments or {})["command-line"]), "") for _, arguments in commands]


def test_registers_are_read_by_line_without_how_tcg_computes_flags() -> None:
    assert read_registers(cast("QmpConnection", Monitor())) == {
        "registers -a/0": "CPU#0",
        "registers -a/2": "MXCSR=00001f80",
        "pic/0": "pic0: irr=01",
    }


def test_refusals_are_values() -> None:
    values = read_queries(cast("QmpConnection", Replies(OBJECTS, list_get=False)), 1, vhost=True)
    assert values["query-status"] == "refused: no such thing"
    virtqueue = "x-query-virtio-vhost-queue-status/machine|peripheral|nic0|virtio-backend/1"
    assert values[virtqueue] == "refused: no such thing"


def test_nothing_is_sent_that_has_hurt_a_qemu() -> None:
    refused = ", ".join(NOT_SENT)
    assert not [name for name in (*QUERIES, *(f"info {item}" for item in OUTLINES)) if name in refused.split(", ")]
