"""All state of a QEMU that QMP, HMP and QOM report, as a flat mapping from path to value.

Only commands that read are sent, and none that has hurt a QEMU: see :data:`NOT_SENT`. What takes a connection raises
what :meth:`QmpConnection.execute_all` does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cprlib.errors import QmpRefused
from cprlib.qemu.qmp import Arguments, QmpConnection

Values = dict[str, str]
Command = tuple[str, Arguments | None]

QUERIES = (
    "query-status", "query-rx-filter", "query-memory-size-summary", "query-memdev", "query-cpus-fast", "query-pci",
    "query-migrate", "query-migrate-capabilities", "query-migrate-parameters", "query-yank", "query-chardev",
    "query-iothreads", "query-fdsets", "query-jobs", "query-block", "query-named-block-nodes",
    "query-name", "query-version", "query-kvm", "query-replay", "query-mice", "query-balloon",
    "query-acpi-ospm-status", "query-current-machine", "x-query-virtio",
)  # fmt: skip
"""Queries without arguments; one that a QEMU does not know is refused before and after."""

OUTLINES = ("qtree", "qom-tree", "mtree", "network", "roms", "pic")
"""Subjects of HMP's ``info``: qtree has the properties of all devices, mtree the addresses of all memory regions."""

CPUS = 4  # whose local APIC is read, if they are there
APIC_REGISTER = re.compile(
    r"^(?P<first>LVT(?:0|1|PC|ERR|THMR)|SPIV)\s+(?P<value>\w+)|\b(?P<name>DCR|TPR|DFR|LDR)[= ](?P<other>\w+)",
    re.MULTILINE,
)
"""In ``info lapic``: what the guest sets once. Its timer, and the interrupts that are pending, change all the time."""

LAZY_FLAGS = "CCS="  # in ``info registers``: how TCG computes flags that it has not needed yet; EFL has them

NOT_SENT: Mapping[str, str] = {
    "x-query-virtio-status": "QEMU 11.1.3 aborts when a feature bit is unknown to it (hw/virtio/virtio-qmp.c)",
    "query-machines, query-cpu-definitions, query-qmp-schema": "what the binary can do, not what it does",
    "info ramblock": "addresses in the process; mtree and query-memory-size-summary have the sizes",
    "info irq": "counters of the QEMU that is asked",
}
"""Commands that could be sent, and why they are not."""

OBJECTS_AT_ONCE = 40  # of one qom-list-get, which holds up the guest's I/O
PERIPHERAL = "/machine/peripheral"
ON_BUS = re.compile(r"child\[\d+\]")  # numbered by what was ever added (bus_add_child(), hw/core/qdev.c)
DEVICE_PROPERTIES = ("realized", "hotplugged", "hotpluggable", "parent_bus")  # info qtree has the others
CPU_PROPERTIES = ("realized", "hotplugged", "apic-id", "unavailable-features", "feature-words", "start-powered-off")
PARENTS = 3  # lines above a value in its path; more would not be read
NO_VALUE = "no value"
HOST_ADDRESS = re.compile(r"0x0000[57][0-9a-f]{11}\b")  # of a mapping in QEMU, on a 64-bit host
NIC_ADDRESS = re.compile(r"\bmacaddr=[0-9a-f:]+")
PASSED_TAP = re.compile(r"\btype=tap,fd=\d+")
QUEUES_OF_OTHERS = 4  # of a virtio device that is no NIC
QUEUE_STATUS, VHOST_QUEUE_STATUS = "x-query-virtio-queue-status", "x-query-virtio-vhost-queue-status"


def flatten(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a JSON value by path; a list of objects by their names, a list of texts as one sorted value."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flatten(item, f"{path}/{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        names = _unique(_name(item, str(index)) for index, item in enumerate(value))
        for name, item in zip(names, value, strict=True):
            yield from flatten(item, f"{path}/{name}" if path else name)
    elif isinstance(value, list):
        yield path, " ".join(sorted(str(item) for item in value))
    else:
        yield path, str(value).lower() if isinstance(value, bool) else str(value)


def _name(item: object, otherwise: str) -> str:
    known = ("id", "name", "label", "capability", "qdev_id", "path", "qom-path")
    found = (item.get(name) for name in known) if isinstance(item, Mapping) else ()
    return next((name.strip("/").replace("/", "|") for name in found if isinstance(name, str) and name), otherwise)


def _unique(names: Iterable[str]) -> Iterator[str]:
    """The same names; a later one that is the same gets a number."""
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} [{seen[name]}]"


def outline(text: str) -> Values:
    """An indented text of HMP: a line is a value below the lines that it is indented under.

    ``mac = "52:54:..."`` below ``dev: virtio-net-pci, id "nic0"`` becomes ``dev: virtio-net-pci, id "nic0"/mac``.
    The order of equally indented lines does not matter: ``info mtree`` has address spaces in that of a hash table.
    """
    lines = [(len(line) - len(line.lstrip()), _body(line)) for line in text.splitlines() if line.strip()]
    parents: list[tuple[int, str]] = []
    found: list[tuple[str, str]] = []
    for (indent, body), (below, _) in zip(lines, [*lines[1:], (0, "")], strict=True):
        while parents and parents[-1][0] >= indent:
            parents.pop()
        separators = (" = ",) if below > indent else (" = ", ": ")  # a line with others below it is a name
        separator = next((item for item in separators if item in body), "")
        name, _, value = body.partition(separator) if separator else (body, "", "")
        found.append(("/".join([*(parent for _, parent in parents[-PARENTS:]), name]), value))
        parents.append((indent, body))
    found.sort()
    return dict(zip(_unique(path for path, _ in found), (value for _, value in found), strict=True))


def _body(line: str) -> str:
    """A line without what differs between two processes or has no meaning.

    ``info network`` shows a NIC's address of the command line until the guest sets one in this QEMU
    (qemu_format_nic_info_str(), net/net.c). query-rx-filter has the address that is in use. It shows the number of a
    tap's descriptor that management passed.
    """
    line = PASSED_TAP.sub("type=tap,fd", line)
    line = NIC_ADDRESS.sub("macaddr", HOST_ADDRESS.sub("host address", " ".join(line.split())))
    return line.replace("/", "|").removesuffix(', id ""')


def read_queries(qmp: QmpConnection, queues: int, *, vhost: bool) -> Values:
    """The answers to QMP's queries, also those about the virtqueues of all virtio devices.

    :param queues: queue pairs of the NIC that has most; :param vhost: whether a NIC has vhost.
    """
    answers = qmp.execute_all([(name, None) for name in QUERIES])
    devices = answers[QUERIES.index("x-query-virtio")]
    details: list[Command] = []
    for device in devices if isinstance(devices, list) else ():
        nic = "net" in str(device["name"])
        count = 2 * queues + 1 if nic else QUEUES_OF_OTHERS
        details += [(QUEUE_STATUS, {"path": device["path"], "queue": number}) for number in range(count)]
        vhost_queues = range(2 * queues if vhost else 1) if nic else ()
        details += [(VHOST_QUEUE_STATUS, {"path": device["path"], "queue": number}) for number in vhost_queues]
    values: Values = {}
    for name, answer in zip(QUERIES, answers, strict=True):
        values |= flatten(_or_refusal(answer), name)
    for (command, arguments), answer in zip(details, qmp.execute_all(details), strict=True):
        device, queue = str((arguments or {})["path"]).strip("/").replace("/", "|"), (arguments or {})["queue"]
        values |= flatten(_or_refusal(answer), f"{command}/{device}/{queue}")
    return values


def read_outlines(qmp: QmpConnection) -> Values:
    """The output of HMP's ``info`` about devices, memory, network and local APICs."""
    subjects = [*OUTLINES, *(f"lapic {number}" for number in range(CPUS))]
    answers = qmp.execute_all([("human-monitor-command", {"command-line": f"info {name}"}) for name in subjects])
    return {
        f"{name}/{path}": value
        for name, answer in zip(subjects, answers, strict=True)
        for path, value in (outline if name in OUTLINES else apic_registers)(str(answer)).items()
    }


def read_registers(qmp: QmpConnection) -> Values:
    """Registers of CPUs and interrupt controllers, by HMP command and line. They change as long as the guest runs."""
    subjects = ["registers -a", "pic", *(f"lapic {number}" for number in range(CPUS))]
    answers = qmp.execute_all([("human-monitor-command", {"command-line": f"info {name}"}) for name in subjects])
    return {
        f"{name}/{number}": _body(line)
        for name, answer in zip(subjects, answers, strict=True)
        for number, line in enumerate(str(answer).splitlines())
        if not line.startswith(LAZY_FLAGS)
    }


def apic_registers(text: str) -> Values:
    """The registers of ``info lapic`` that a guest sets once; none for a CPU that is not there."""
    found = APIC_REGISTER.finditer(text)
    return {item["first"] or item["name"]: item["value"] or item["other"] for item in found}


def read_objects(qmp: QmpConnection) -> Values:
    """The properties of QOM objects."""
    (known,) = qmp.execute_all([("qom-list-get", {"paths": ["/"]})])
    return _read_some_objects(qmp) if isinstance(known, QmpRefused) else _read_all_objects(qmp)


def _read_all_objects(qmp: QmpConnection) -> Values:
    """Those of all objects by qom-list-get, which QEMU has since 10.1: one command for many objects."""
    values: Values = {}
    level = ["/"]
    while level:
        children = []
        for path, item in _list_objects(qmp, level):
            if not isinstance(item, Mapping):
                values[path[1:]] = str(_or_refusal(item))
                continue
            for entry in item["properties"]:
                below = f"{path.rstrip('/')}/{entry['name']}"
                if entry["type"].startswith("child<"):
                    children.append(below)
                elif ON_BUS.fullmatch(entry["name"]):
                    values[f"{path[1:]}/child {str(entry.get('value')).replace('/', '|')}"] = "on the bus"
                else:
                    values |= flatten(entry.get("value", NO_VALUE), below[1:])
        level = children
    return values


def _list_objects(qmp: QmpConnection, paths: Sequence[str]) -> Iterator[tuple[str, object]]:
    """The answer of qom-list-get for each path: one object that it cannot read makes it refuse all of the command."""
    parts = [paths[start : start + OBJECTS_AT_ONCE] for start in range(0, len(paths), OBJECTS_AT_ONCE)]
    answers = qmp.execute_all([("qom-list-get", {"paths": part}) for part in parts])
    for part, answer in zip(parts, answers, strict=True):
        if isinstance(answer, list) and len(answer) == len(part):
            yield from zip(part, answer, strict=True)
        elif len(part) > 1:
            for path in part:
                yield from _list_objects(qmp, [path])
        else:
            yield part[0], answer


def _read_some_objects(qmp: QmpConnection) -> Values:
    """Type of each property of the machine, its CPUs, backends and named devices, so that a missing one is seen.

    A value takes a command of its own: read are those of devices and CPUs that neither ``info qtree`` nor a query has.
    """
    folders = (PERIPHERAL, "/objects")
    listed = qmp.execute_all([("query-cpus-fast", None), *(("qom-list", {"path": path}) for path in folders)])
    cpus, children = _items(listed[0]), [_items(answer) for answer in listed[1:]]
    devices, backends = (
        [f"{folder}/{item['name']}" for item in items if item["type"].startswith("child<")]
        for folder, items in zip(folders, children, strict=True)
    )
    values_of: dict[str, Sequence[str]] = dict.fromkeys(["/machine", *backends], ())
    values_of |= {path: DEVICE_PROPERTIES for device in devices for path in (device, f"{device}/virtio-backend")}
    values_of |= {str(cpu["qom-path"]): CPU_PROPERTIES for cpu in cpus}
    answers = qmp.execute_all([("qom-list", {"path": path}) for path in values_of])
    properties = [
        (path, str(item["name"]), str(item["type"]))
        for path, answer in zip(values_of, answers, strict=True)
        for item in _items(answer)
        if not item["type"].startswith("child<")
    ]
    read = [(path, name) for path, name, _ in properties if name in values_of[path]]
    answers = qmp.execute_all([("qom-get", {"path": path, "property": name}) for path, name in read])
    values: Values = {}
    for path, name, kind in properties:
        if name not in values_of[path]:
            values[f"{path}/{name}"[1:]] = kind
    for (path, name), answer in zip(read, answers, strict=True):
        values |= flatten(_or_refusal(answer), f"{path}/{name}"[1:])
    return values


def _items(answer: object) -> list[dict[str, Any]]:
    return answer if isinstance(answer, list) else []


def _or_refusal(answer: object) -> object:
    return f"refused: {answer.happened}" if isinstance(answer, QmpRefused) else answer
