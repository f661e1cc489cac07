"""The format of a QEMU's device state: which fields each kind of device sends, with sizes and versions.

A QEMU whose format differs from that of its release cannot take a guest from it, or give it one. QEMU compares two
formats with scripts/vmstate-static-checker.py. fixtures/migration-format/ has those of releases, by their number;
``python3 -m cprlib.qemu.migration_format QEMU`` prints one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cprlib import files
from cprlib.codec import BadValue, dump_json, load_json
from cprlib.errors import InstrumentError
from cprlib.process import run
from cprlib.qemu.binary import QemuBinary

Values = dict[str, str]
TRIED = "read the format of the device state"
MACHINE = "vmschkmachine"  # not a device: dump_machine_type(), migration/savevm.c


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


def read_format(qemu: QemuBinary) -> Values:
    """The format of a QEMU: each structure's versions and fields, by ``device/structure``.

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
            if device != MACHINE:
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


def shared_structures(release: Mapping[str, str], found: Mapping[str, str]) -> tuple[Values, Values]:
    """The structures of a release, and of another QEMU, of those devices that both have.

    A further structure of the other QEMU is left out: a subsection that is not always sent is compatible.
    """
    devices = {path.partition("/")[0] for path in found}
    known = {path: value for path, value in release.items() if path.partition("/")[0] in devices}
    return known, {path: value for path, value in found.items() if path in known}


if __name__ == "__main__":
    sys.stdout.write(dump_json(dict(sorted(read_format(QemuBinary(Path(sys.argv[1]))).items()))) + "\n")
