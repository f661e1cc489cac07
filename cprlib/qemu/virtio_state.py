"""The part of a migration stream that QEMU's virtio devices write without a description: virtio_save().

Layout: QEMU hw/virtio/virtio.c (virtio_save()), hw/virtio/virtio-pci.c and hw/pci/ (its bus), hw/net/virtio-net.c and
hw/char/virtio-serial-bus.c (the devices). It is part of QEMU's migration format, which stays compatible.
What cannot be interpreted is returned as rows of bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

CONFIG_SIZES = (256, 4096)  # conventional PCI, PCI Express
STATUS_CAPABILITIES, CAPABILITIES, MSIX = 0x10, 0x34, 0x11  # linux/pci_regs.h
MOST_QUEUES = 1024  # VIRTIO_QUEUE_MAX
SUBSECTION = re.compile(rb"\x05.(virtio/[a-z0-9_]+)(....)", re.DOTALL)
MODERN = b"\x05\x17virtio_pci/modern_state"
GUEST_OFFLOADS = 2  # VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
NET_TABLE, NET_VLANS = 6, 512
ROW, WIDE = 16, 64  # bytes of a row
LINK_UP, ANNOUNCE = 1, 2  # VIRTIO_NET_S_*

Values = Iterator[tuple[str, str]]


class _End(Exception):
    """The data end before the layout does, or have another one."""


class _Cursor:
    """Takes values from the start of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        taken = self.data[self.position : self.position + size]
        if size < 0 or len(taken) < size:
            raise _End
        self.position += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def fields(self, prefix: str, *layout: tuple[str, int]) -> Values:
        """Numbers of these names and sizes in bytes."""
        for name, size in layout:
            yield f"{prefix}{name}", self.take(size).hex()

    @property
    def rest(self) -> bytes:
        return self.data[self.position :]


def virtio_values(data: bytes) -> Values:
    """The values of one virtio device on PCI.

    :param data: what virtio_save() wrote.
    """
    marks = [found for found in SUBSECTION.finditer(data) if found[0][1] == len(found[1])]
    end = marks[0].start() if marks else len(data)
    known = next((values for size in CONFIG_SIZES if (values := _device(data[:end], size)) is not None), None)
    yield from known if known is not None else rows("undescribed", data[:end])
    for number, mark in enumerate(marks):
        limit = marks[number + 1].start() if number + 1 < len(marks) else len(data)
        name = mark[1].decode().removeprefix("virtio/")
        yield f"{name}/version", mark[2].hex()
        yield from _subsection(name, data[mark.end() : limit])


def _device(data: bytes, config_size: int) -> list[tuple[str, str]] | None:
    """All before the subsections; None when the data have another layout."""
    cursor = _Cursor(data)
    values: list[tuple[str, str]] = []
    try:
        vectors = _pci(cursor, config_size, values)
        values += cursor.fields("", ("status", 1), ("isr", 1), ("queue_sel", 2))
        features = cursor.number(4)
        values.append(("features", f"{features:08x}"))
        values += rows("config", cursor.take(cursor.number(4)), 2)
        count = cursor.number(4)
        if not 0 < count <= MOST_QUEUES:
            return None
        queue = (("num", 4), ("desc", 8), ("last_avail_idx", 2), *((("vector", 2),) if vectors else ()))
        for number in range(count):
            values += cursor.fields(f"queue[{number}]/", *queue)
    except _End:
        return None
    device = _net(cursor.rest, features) or _serial(cursor.rest)
    return values + (device if device is not None else list(rows("device", cursor.rest)))


def _pci(cursor: _Cursor, config_size: int, values: list[tuple[str, str]]) -> bool:
    """virtio_pci_save_config(): configuration space, interrupt lines, MSI-X table and pending bits.

    :returns: whether the device has MSI-X.
    """
    values += cursor.fields("pci/", ("version_id", 4))
    config = cursor.take(config_size)
    values += rows("pci/config", config, 4)
    values += rows("pci/irq_state", cursor.take(16))
    entries = _msix_entries(config)
    for number in range(entries):
        values += cursor.fields(f"msix[{number}]/", ("address", 8), ("data", 4), ("control", 4))
    if entries:
        values.append(("msix/pending", cursor.take((entries + 7) // 8).hex()))
        values += cursor.fields("", ("config_vector", 2))
    return bool(entries)


def _msix_entries(config: bytes) -> int:
    """Entries of the MSI-X table by its capability; 0 without one."""
    at = config[CAPABILITIES] & ~3 if config[6] & STATUS_CAPABILITIES else 0
    for _ in range(48):
        if at < 0x40:
            return 0
        if config[at] == MSIX:
            return (int.from_bytes(config[at + 2 : at + 4], "little") & 0x7FF) + 1
        at = config[at + 1] & ~3
    return 0


def _net(data: bytes, features: int) -> list[tuple[str, str]] | None:
    """vmstate_virtio_net_device; None when it is another device."""
    cursor, values = _Cursor(data), list[tuple[str, str]]()
    try:
        values += cursor.fields("net/", ("mac", 6), ("tx_waiting[0]", 4), ("mergeable_rx_bufs", 4))
        status = cursor.number(2)
        values += [("net/link", str(status & LINK_UP)), ("net/announce", str(status & ANNOUNCE))]
        values.append(("net/status", f"{status & ~LINK_UP & ~ANNOUNCE:04x}"))
        values += cursor.fields("net/", ("promisc", 1), ("allmulti", 1))
        used = cursor.number(4)
        values.append(("net/mac_table/in_use", str(used)))
        for number in range(used):
            values.append((f"net/mac_table[{number}]", cursor.take(NET_TABLE).hex(":")))
        values += rows("net/vlans", cursor.take(NET_VLANS), WIDE)
        flags = ("multi_overflow", "uni_overflow", "alluni", "nomulti", "nouni", "nobcast", "has_ufo")
        values += cursor.fields("net/", ("has_vnet_hdr", 4), *((name, 1) for name in flags))
        offloads = 8 if features >> GUEST_OFFLOADS & 1 else 0
        rss = cursor.rest.find(b"\x05\x15virtio-net-device/rss")
        length = len(cursor.rest) if rss < 0 else rss
        if length > offloads:  # more than one queue pair
            values += cursor.fields("net/", ("max_queue_pairs", 2))
            pairs = cursor.number(2)
            values.append(("net/curr_queue_pairs", str(pairs)))
            values += cursor.fields("net/", *((f"tx_waiting[{number}]", 4) for number in range(1, pairs)))
        if offloads:
            values += cursor.fields("net/", ("curr_guest_offloads", offloads))
        if rss >= 0:
            _rss(cursor, values)
    except _End:
        return None
    return values if not cursor.rest else None


def _rss(cursor: _Cursor, values: list[tuple[str, str]]) -> None:
    """vmstate_virtio_net_rss."""
    cursor.take(2 + 0x15)
    values += cursor.fields("net/rss/", ("version", 4), ("enabled", 1), ("redirect", 1), ("populate_hash", 1))
    values += cursor.fields("net/rss/", ("hash_types", 4))
    length = cursor.number(2)
    values += cursor.fields("net/rss/", ("default_queue", 2), ("key", 40))
    values += rows("net/rss/table", cursor.take(2 * length))


def _serial(data: bytes) -> list[tuple[str, str]] | None:
    """virtio_serial_save_device(); a buffer that a port is writing is rows of bytes; None when it is another device."""
    cursor, values = _Cursor(data), list[tuple[str, str]]()
    try:
        values += cursor.fields("serial/", ("cols", 2), ("rows", 2))
        ports = cursor.number(4)
        values.append(("serial/max_ports", str(ports)))
        values += rows("serial/ports_map", cursor.take((ports + 31) // 32 * 4))
        for _ in range(cursor.number(4)):
            prefix = f"serial/port[{cursor.number(4)}]/"
            values += cursor.fields(prefix, ("guest_connected", 1), ("host_connected", 1))
            popped = cursor.number(4)
            values.append((f"{prefix}elem_popped", str(popped)))
            if popped:
                values += rows(f"{prefix}elem", cursor.take(len(cursor.rest)), WIDE)
                break
    except _End:
        return None
    return values if not cursor.rest else None


def _subsection(name: str, data: bytes) -> Values:
    """A subsection of vmstate_virtio; those with an entry for each possible queue without what is zero there."""
    match name:
        case "virtqueues":
            yield from _queues(name, data, (("avail", 8), ("used", 8)))
        case "ringsize":
            yield from _queues(name, data, (("num_default", 4),))
        case "packed_virtqueues":
            layout = (("last_avail_idx", 2), ("last_avail_wrap", 1), ("used_idx", 2), ("used_wrap", 1), ("inuse", 4))
            yield from _queues(name, data, layout)
        case "extra_state" if len(data) > len(MODERN) and data.startswith(MODERN):
            yield from _modern(data[len(MODERN) :])
        case _:
            yield from rows(name, data)


def _modern(data: bytes) -> Values:
    """vmstate_virtio_pci_modern_state_sub."""
    yield "modern/version", data[:4].hex()
    yield "modern/dfselect", data[4:8].hex()
    yield "modern/gfselect", data[8:12].hex()
    yield "modern/guest_features", data[12:20].hex()
    layout = (("num", 2), ("unused", 1), ("enabled", 1), ("desc", 8), ("avail", 8), ("used", 8))
    yield from _queues("modern", data[20:], layout)


def _queues(name: str, data: bytes, layout: tuple[tuple[str, int], ...]) -> Values:
    size = sum(length for _, length in layout)
    if len(data) % size:
        yield from rows(name, data)
        return
    for number in range(len(data) // size):
        cursor = _Cursor(data[number * size : (number + 1) * size])
        for path, value in cursor.fields(f"{name}/queue[{number}]/", *layout):
            if value.strip("0"):
                yield path, value


def rows(name: str, data: bytes, width: int = ROW) -> Values:
    """Bytes as rows by offset; one value when they fit into a row.

    :param width: bytes of a row.
    """
    if len(data) <= width:
        yield name, data.hex()
        return
    for offset in range(0, len(data), width):
        yield f"{name}/{offset:03x}", data[offset : offset + width].hex()
