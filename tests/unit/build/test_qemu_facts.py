"""What is known of a QEMU is found out once for each binary."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cprlib.build import qemu_facts
from cprlib.build.qemu_facts import known_facts
from cprlib.errors import UsageError
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.facts import QemuFacts


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The binaries that were asked."""
    found: list[Path] = []

    def probe(qemu: QemuBinary) -> QemuFacts:
        found.append(qemu.path)
        return QemuFacts(str(qemu.path), "10.0.0", "", netdev_cpr=True, cpr_transfer=True, migration_local=False)

    monkeypatch.setattr(qemu_facts, "probe", probe)
    return found


def test_a_binary_is_asked_once_until_it_changes(tmp_path: Path, asked: list[Path]) -> None:
    qemu = QemuBinary(tmp_path / "qemu")
    qemu.path.write_bytes(b"\x7fELF")
    first = known_facts(qemu)
    assert known_facts(qemu) == first
    assert asked == [qemu.path]
    os.utime(qemu.path, ns=(1, 1))
    known_facts(qemu)
    assert len(asked) == 2


def test_a_better_probe_asks_again(tmp_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    qemu, probing = QemuBinary(tmp_path / "qemu"), tmp_path / "binary.py"
    qemu.path.write_bytes(b"\x7fELF")
    monkeypatch.setattr(qemu_facts, "PROBING", (probing,), raising=False)
    for text, count in (("one", 1), ("one", 1), ("two", 2)):
        probing.write_text(text)
        known_facts(qemu)
        assert len(asked) == count


def test_a_script_is_always_asked(tmp_path: Path, asked: list[Path]) -> None:
    qemu = QemuBinary(tmp_path / "qemu")
    qemu.path.write_text("#!/bin/sh\n")
    known_facts(qemu)
    known_facts(qemu)
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CPRLIB_CACHE", str(tmp_path / "file"))
    qemu = QemuBinary(tmp_path / "qemu")
    qemu.path.write_bytes(b"\x7fELF")
    assert known_facts(qemu).version == "10.0.0"
    assert asked


def test_no_qemu_is_an_error() -> None:
    with pytest.raises(UsageError, match="no such file"):
        known_facts(QemuBinary(Path("/nosuch")))
