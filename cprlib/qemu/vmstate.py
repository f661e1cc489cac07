"""Read the device state in a migration stream, field by field, as a flat mapping from path to bytes in hexadecimal.

The stream ends with a description of itself in JSON (QEMU docs/devel/migration/main.rst; vmstate_save_state_v() in
migration/vmstate.c writes it): each device with the names, types and sizes of its fields. Device sections are the last
ones, so that their place follows from their sizes, and RAM before them is not parsed (migration/savevm.c,
qemu_savevm_state_complete_precopy_non_iterable()).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from cprlib.codec import BadValue, load_json
from cprlib.errors import InstrumentError
from cprlib.qemu.virtio_state import ROW, rows, virtio_values

MAGIC = b"QEVM\0\0\0\3"  # migration/savevm.h QEMU_VM_FILE_MAGIC, QEMU_VM_FILE_VERSION
EOF, FULL, SUBSECTION, DESCRIPTION, FOOTER = 0x00, 0x04, 0x05, 0x06, 0x7E
LONGEST_ARRAY = 1 << 20
LISTED = 64  # elements of an array that have a path each
WIDTHS = {"pci config": 4, "buffer": 1}  # bytes of a row, by the field's type
LONGEST_BUFFER = 128  # bytes with a path each, as the registers of a real-time clock
SOMETIMES = "tap/"  # begins the name of a section that a netdev sends while a packet waits in it
TRIED = "read the device state of a migration stream"
ADVICE = "compare the stream with migration/savevm.c and migration/vmstate.c of this QEMU"
Length = Annotated[int, msgspec.Meta(ge=0, le=1 << 30)]


class Structure(msgspec.Struct, frozen=True, kw_only=True):
    """A VMStateDescription: a structure's, a subsection's."""

    vmsd_name: str = ""
    version: int = 0
    fields: tuple[Field, ...] = ()
    subsections: tuple[Structure, ...] = ()


class Field(Structure, frozen=True, kw_only=True):
    """One field. It may have the members of a structure itself (type ``tmp``)."""

    name: str
    size: Length
    type: str = ""
    index: int | None = None
    array_len: Length | None = None
    struct: Structure | None = None


class Device(Structure, frozen=True, kw_only=True):
    """The state of one device, which is one section."""

    name: str
    instance_id: int


class Description(msgspec.Struct, frozen=True):
    """The description at the end of a stream."""

    devices: tuple[Device, ...]


def device_state(stream: bytes) -> Mapping[str, str]:
    """All fields of all devices, by ``device/structure/field``, and the order of the sections with their versions.

    The order is without the sections of :data:`SOMETIMES`, which would change the numbers of those that follow.

    :param stream: everything that was sent on the main channel.
    :raises InstrumentError: the stream has another layout, or no description.
    """
    if not stream.startswith(MAGIC):
        raise InstrumentError(TRIED, f"it begins with {stream[:8].hex(' ') or 'nothing'}", ADVICE)
    description, end = _description(stream)
    position = end - sum(_section_size(device) for device in description.devices)
    values: dict[str, str] = {}
    sections: list[str] = []
    for device in description.devices:
        place = f"{device.name}#{device.instance_id}"
        position, version = _header(stream, position, device)
        if not device.name.startswith(SOMETIMES):
            sections.append(f"{place} version {version}, fields {device.version}")
        body = stream[position : position + _size(device)]
        values |= {f"{place}/{path}": value for path, value in _values(device, body)}
        position += len(body)
        if stream[position] != FOOTER:
            raise InstrumentError(TRIED, f"{place} does not end where its fields do", ADVICE)
        position += 5
    return values | {f"sections/{number:03d}": text for number, text in enumerate(sections)}


def sent_format(stream: bytes) -> dict[str, dict[str, str]]:
    """The format of the device state in a stream: the sections in order, each with its structures by path.

    :param stream: everything that was sent on the main channel.
    :raises InstrumentError: the stream has no description.
    """
    devices = _description(stream)[0].devices
    return {f"{device.name}#{device.instance_id}": dict(_formats("", device)) for device in devices}


def _formats(prefix: str, part: Structure) -> Iterator[tuple[str, str]]:
    """The fields of a structure, and of those in it.

    :param prefix: its path with a slash at the end; empty for a section.
    """
    fields = (
        f"{_indexed(item, item.index)} {item.type} {item.size}"
        + ("" if item.array_len is None else f" x {item.array_len}")
        for item in part.fields
    )
    yield prefix.removesuffix("/"), f"version {part.version}: {', '.join(fields)}"
    for item in part.fields:
        inner = item.struct or item
        if inner.fields or inner.subsections:
            yield from _formats(f"{prefix}{_indexed(item, item.index)}/", inner)
    for section in part.subsections:
        yield from _formats(f"{prefix}{_last_name(section)}/", section)


def _indexed(item: Field, index: int | None) -> str:
    return item.name if index is None else f"{item.name}[{index}]"


def _last_name(section: Structure) -> str:
    """The name of a subsection without that of its device."""
    return section.vmsd_name.rpartition("/")[2]


def _description(stream: bytes) -> tuple[Description, int]:
    """The description and the position of the byte that ends the sections."""
    at = stream.rfind(bytes((EOF, DESCRIPTION)))
    while at >= 0:
        (length,) = struct.unpack_from(">I", stream.ljust(at + 6, b"\0"), at + 2)
        if at + 6 + length == len(stream):
            try:
                return load_json(Description, stream[at + 6 :]), at
            except BadValue as error:
                raise InstrumentError(TRIED, f"its description: {error}", ADVICE) from error
        at = stream.rfind(bytes((EOF, DESCRIPTION)), 0, at + 1)
    raise InstrumentError(
        TRIED, "it has no description at its end: it is not whole, or the machine suppresses it", ADVICE
    )


def _header(stream: bytes, position: int, device: Device) -> tuple[int, int]:
    """The position after a section's header, and the section's version."""
    name = device.name.encode()
    expected = bytes((len(name),)) + name + struct.pack(">i", device.instance_id)
    start = position + 5
    if position < len(MAGIC) or stream[position] != FULL or stream[start : start + len(expected)] != expected:
        raise InstrumentError(TRIED, f"no section {device.name} at byte {position}", ADVICE)
    start += len(expected)
    return start + 4, struct.unpack_from(">I", stream, start)[0]


def _section_size(device: Device) -> int:
    """Bytes of a section: type and id, name, instance and version, fields, footer."""
    return 5 + 1 + len(device.name.encode()) + 8 + _size(device) + 5


def _size(part: Structure) -> int:
    """Bytes of the fields and subsections."""
    return sum(_element_size(item) * _count(item) for item in part.fields) + sum(
        2 + len(item.vmsd_name.encode()) + 4 + _size(item) for item in part.subsections
    )


def _element_size(item: Field) -> int:
    """Bytes of a field, or of one element of it.

    A passed descriptor comes with a byte that is written past QEMU's count, which the description is made from
    (qemu_file_put_fd(), migration/qemu-file.c).
    """
    return item.size or int(item.type == "fd")


def _count(item: Field) -> int:
    return 1 if item.array_len is None else min(item.array_len, LONGEST_ARRAY)


def _values(part: Structure, data: bytes) -> Iterator[tuple[str, str]]:
    position = 0
    for item in part.fields:
        if item.array_len is not None and item.array_len > LISTED and not (item.struct or item.fields):
            end = position + item.size * _count(item)
            yield from rows(item.name, data[position:end])
            position = end
            continue
        size = _element_size(item)
        for number in range(_count(item)):
            index = item.index if item.array_len is None else number
            yield from _field(item, _indexed(item, index), data[position : position + size])
            position += size
    for section in part.subsections:
        start = position + 2 + len(section.vmsd_name.encode()) + 4
        if data[position : position + 1] != bytes((SUBSECTION,)):
            raise InstrumentError(TRIED, f"no subsection {section.vmsd_name} after the fields", ADVICE)
        position = start + _size(section)
        name = _last_name(section)
        yield f"{name}/version", str(section.version)
        yield from ((f"{name}/{path}", value) for path, value in _values(section, data[start:position]))


def _field(item: Field, name: str, data: bytes) -> Iterator[tuple[str, str]]:
    inner = item.struct or item
    if item.type == "virtio":
        yield from ((f"{name}/{path}", value) for path, value in virtio_values(data))
    elif inner.fields and _size(inner) == item.size:
        yield from ((f"{name}/{path}", value) for path, value in _values(inner, data))
    else:
        narrow = item.type != "buffer" or len(data) <= LONGEST_BUFFER
        yield from rows(name, data, WIDTHS.get(item.type, ROW) if narrow else ROW)
