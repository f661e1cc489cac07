"""The format of a QEMU's device state: which fields each kind of device sends, with sizes and versions.

A QEMU whose format differs from that of its release cannot take a guest from it, or give it one. QEMU writes the format
of most devices with ``-dump-vmstate``, for scripts/vmstate-static-checker.py. It leaves out CPUs, the inside of virtio
devices, and what is no device; so a machine is migrated to a file as well before its guest runs, since a stream ends
with a description of itself. fixtures/migration-format/ has the formats of releases, by their number;
``python3 -m cprlib.qemu.migration_format QEMU RELEASE`` prints one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cprlib import files
from cprlib.codec import BadValue, dump_json, load_json
from cprlib.deadline import Deadline
from cprlib.errors import Awaited, InstrumentError
from cprlib.process import run
from cprlib.qemu.binary import QemuBinary, machine_types, started_without_guest
from cprlib.qemu.netdev import NIC_DRIVER
from cprlib.qemu.vmstate import sent_format

Values = dict[str, str]
TRIED = "read the format of the device state"
NO_DEVICE = "vmschkmachine"  # in the dump: dump_machine_type(), migration/savevm.c
DEVICES = ("-device", NIC_DRIVER, "-device", "virtio-serial-pci", "-device", "virtserialport")  # as a guest has
SEND_S = 30.0


class MigrationFormat(msgspec.Struct, frozen=True):
    """The format of a QEMU's device state.

    :param structures: what each kind of device can send, by ``device/structure``.
    :param sent: the sections that the machine of a release sends, in order, each with its structures; empty when the
        QEMU does not have that machine.
    """

    structures: Values
    sent: dict[str, Values]


class DumpedStructure(msgspec.Struct, frozen=True, rename={"fields": "Fields", "subsections": "Subsections"}):
    """A VMStateDescription as ``-dump-vmstate`` writes it (dump_vmstate_vmsd(), migration/savevm.c)."""

    name: str
    version_id: int
    minimum_version_id: int
    fields: tuple[DumpedField, ...] = ()
    subsections: tuple[DumpedStructure, ...] = ()


class DumpedField(msgspec.Struct, frozen=True, rename={"description": "Description"}):
    """One field of a device.

    :param version_id: of the device, from which on the field is sent.
    :param field_exists: it is sent under a condition.
    :param size: in bytes.
    """

    field: str
    version_id: int
    field_exists: bool
    size: int
    description: DumpedStructure | None = None


def read_format(qemu: QemuBinary, release: str) -> MigrationFormat:
    """The format of a QEMU.

    :param release: whose machine is migrated: ``10.0``.
    :raises UsageError: it is not a QEMU.
    :raises QemuFailed, DeadlineExceeded, InstrumentError: the format cannot be read.
    """
    machine = f"pc-q35-{release}"
    sent = _read_sent(qemu, machine) if machine in machine_types(qemu) else {}
    return MigrationFormat(read_structures(qemu), sent)


def _read_sent(qemu: QemuBinary, machine: str) -> dict[str, Values]:
    """What a machine sends before its guest runs; with accelerator qtest a CPU has all features on each host."""
    arguments = ("-S", "-accel", "qtest", "-cpu", "max", "-m", "16M", *DEVICES)
    with (
        tempfile.TemporaryDirectory() as folder,
        started_without_guest(qemu, *arguments, machine=machine) as connection,
    ):
        path = Path(folder, "stream")
        connection.execute("migrate", {"uri": f"file:{path}"})
        deadline = Deadline(SEND_S, "the machine's state to be in a file", Awaited.QEMU)
        status = partial(connection.execute, "query-migrate")
        deadline.poll(lambda: status()["status"] == "completed", 0.02, lambda: f"the migration is {status()}")
        return sent_format(path.read_bytes())


def read_structures(qemu: QemuBinary) -> Values:
    """What each kind of device can send: each structure's versions and fields.

    :raises ProcessFailed, DeadlineExceeded: the QEMU does not write it.
    :raises InstrumentError: it has another layout.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "format.json")
        run([*qemu.command(), "-machine", "none", "-nodefaults", "-dump-vmstate", str(path)], purpose=TRIED)
        text = path.read_bytes()
    values: Values = {}
    try:
        for device, item in load_json(dict[str, dict[str, Any]], text).items():
            if device != NO_DEVICE:
                values |= _structures(device, msgspec.convert(item["Description"], DumpedStructure))
    except (BadValue, KeyError, msgspec.ValidationError) as error:
        raise InstrumentError(TRIED, str(error), "compare it with dump_vmstate_json_to_file() of this QEMU") from error
    return values


def _structures(path: str, item: DumpedStructure) -> Iterator[tuple[str, str]]:
    fields = ", ".join(
        f"{field.field}{'' if field.description else f' {field.size}'}"  # a structure's size is QEMU's in memory
        f"{f' from {field.version_id}' if field.version_id else ''}{' if needed' if field.field_exists else ''}"
        for field in item.fields
    )
    yield path, f"version {item.version_id}, minimum {item.minimum_version_id}: {fields}"
    for field in item.fields:
        if field.description:
            yield from _structures(f"{path}/{field.field}", field.description)
    for section in item.subsections:
        yield from _structures(f"{path}/{section.name.rpartition('/')[2]}", section)


def release_path(version: str) -> Path:
    """The file with the format of a release.

    :param version: as in :class:`QemuFacts`.
    """
    release = ".".join(version.split(".")[:2])
    return files.project_folder() / "fixtures" / "migration-format" / f"{release}.json"


def load_format(path: Path) -> MigrationFormat:
    """The format of a release from its file."""
    return load_json(MigrationFormat, path.read_bytes())


def comparable(release: MigrationFormat, found: MigrationFormat) -> tuple[Values, Values]:
    """The formats of a release and of a QEMU that is built from it, as far as they must be the same.

    Left out are devices that only one of them has, sections that only the other QEMU sends, since builds differ in
    their devices, and structures that only the other QEMU can send: a subsection that is not always sent is compatible.
    """
    devices = {_device(path) for path in found.structures}
    structures = {path: text for path, text in release.structures.items() if _device(path) in devices}
    sections = release.sent if found.sent else {}
    known = _by_path(structures, sections)
    others = {path: text for path, text in found.structures.items() if path in structures}
    return known, _by_path(others, {name: item for name, item in found.sent.items() if name in sections})


def _device(path: str) -> str:
    return path.partition("/")[0]


def _by_path(structures: Values, sections: Mapping[str, Values]) -> Values:
    values = {f"format/{path}": text for path, text in structures.items()}
    for name, section in sections.items():
        values |= {f"sent/{name}/{path}".rstrip("/"): text for path, text in section.items()}
    return values | ({"sent/sections": ", ".join(sections)} if sections else {})


if __name__ == "__main__":
    sys.stdout.write(dump_json(read_format(QemuBinary(Path(sys.argv[1])), sys.argv[2])) + "\n")
