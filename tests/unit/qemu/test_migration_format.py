"""The format of the device state, as a QEMU writes it with -dump-vmstate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cprlib.codec import dump_json
from cprlib.errors import InstrumentError
from cprlib.evidence.records import Difference
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.migration_format import MigrationFormat, comparable, load_format, read_structures, release_path
from cprlib.testing import equivalence
from cprlib.update.mechanism import Mechanism

pytestmark = pytest.mark.fast

VERSIONS = {"version_id": 1, "minimum_version_id": 1}
FIELD = {"version_id": 0, "field_exists": False}
TIMER = {"name": "timer", **VERSIONS, "Fields": [{"field": "cmp", **FIELD, "size": 8}]}
OFFSET = {"name": "hpet/offset", **VERSIONS, "Fields": [{"field": "offset", **FIELD, "size": 8}]}
HPET = {
    "name": "hpet",
    "version_id": 2,
    "minimum_version_id": 1,
    "Fields": [
        {"field": "config", **FIELD, "size": 8},
        {"field": "counter", "version_id": 2, "field_exists": True, "size": 8},
        {"field": "timer", **FIELD, "size": 72, "Description": TIMER},
    ],
    "Subsections": [OFFSET],
}
VALUES = {
    "hpet": "version 2, minimum 1: config 8, counter 8 from 2 if needed, timer",
    "hpet/timer": "version 1, minimum 1: cmp 8",
    "hpet/offset": "version 1, minimum 1: offset 8",
}
SENT = {"cpu#0": {"": "version 12: env.eip uint64 8", "fred": "version 1: env.fred_rsp0 uint64 8"}, "timer#0": {"": ""}}


def qemu(folder: Path, *devices: dict[str, Any]) -> QemuBinary:
    """A program that writes the format of some devices as QEMU does."""
    text = {"vmschkmachine": {"Name": "none"}} | {str(item["name"]): {"Description": item} for item in devices}
    (folder / "format.json").write_text(json.dumps(text), encoding="utf-8")
    path = folder / "qemu-system-x86_64"
    path.write_text(f'#!/bin/sh\nfor last; do :; done\ncp {folder}/format.json "$last"\n', encoding="utf-8")
    path.chmod(0o755)
    return QemuBinary(path)


def test_a_structure_is_its_versions_and_fields(tmp_path: Path) -> None:
    assert read_structures(qemu(tmp_path, HPET)) == VALUES


def test_a_field_that_is_not_sent_any_more_is_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**HPET, "Fields": HPET["Fields"][:2]}  # type: ignore[index]
    new = {"name": "new", **VERSIONS, "Fields": []}
    found = qemu(tmp_path, other, new)
    monkeypatch.setattr(equivalence, "read_format", lambda *_: MigrationFormat(read_structures(found), {}))
    release = tmp_path / "10.0.json"
    known = MigrationFormat(VALUES | {"not-built": "version 1, minimum 1: x 1"}, {})
    release.write_text(dump_json(known), encoding="utf-8")
    record = equivalence.compare_with_release(found, release, Mechanism.CPR)
    assert (record.compared, record.subject) == (3, "the patches on release 10.0")
    assert record.differences == (
        Difference("format/hpet", VALUES["hpet"], "version 2, minimum 1: config 8, counter 8 from 2 if needed"),
        Difference("format/hpet/timer", VALUES["hpet/timer"], None),
    )


def test_further_structures_devices_and_sections_are_compatible() -> None:
    found = MigrationFormat(VALUES | {"hpet/new": "x", "new": "x"}, SENT | {"new#0": {"": "x"}})
    known, others = comparable(MigrationFormat(VALUES, SENT), found)
    assert known == others
    assert known["sent/cpu#0/fred"] == "version 1: env.fred_rsp0 uint64 8"
    assert known["sent/sections"] == "cpu#0, timer#0"


@pytest.mark.parametrize(
    ("sent", "differences"),
    [
        (dict(reversed(SENT.items())), (Difference("sent/sections", "cpu#0, timer#0", "timer#0, cpu#0"),)),
        (
            {"cpu#0": SENT["cpu#0"]},
            (Difference("sent/timer#0", "", None), Difference("sent/sections", "cpu#0, timer#0", "cpu#0")),
        ),
        (SENT | {"timer#0": {"": "", "new": "x"}}, (Difference("sent/timer#0/new", None, "x"),)),
        ({}, ()),  # it does not have the release's machine
    ],
)
def test_sections_of_the_release_are_exactly_the_same(
    sent: dict[str, dict[str, str]], differences: tuple[Difference, ...]
) -> None:
    record = equivalence.compare_formats(MigrationFormat({}, SENT), MigrationFormat({}, sent), Mechanism.CPR, "")
    assert record.differences == differences


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InstrumentError, match="read the format of the device state"):
        read_structures(qemu(tmp_path, {"name": "hpet"}))


def test_releases_have_their_formats() -> None:
    for version in ("10.0.13 (Debian)", "10.2.2", "11.1.3"):
        assert "cpu#0" in load_format(release_path(version)).sent
