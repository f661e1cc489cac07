"""The manifest of the assets names the project's own QEMU only."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from cprlib.build import assets
from cprlib.build.progress import Progress, console_progress
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Builds that are there already, and a cache folder of the test's own."""

    def build_qemu(base: str, _series: bool, _progress: Progress) -> SimpleNamespace:
        return SimpleNamespace(binary=tmp_path / f"qemu-{base}", firmware=tmp_path)

    monkeypatch.setattr(assets, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(assets, "build_qemu", build_qemu)
    image = GuestImage(tmp_path / "vmlinuz", tmp_path / "initramfs", "digest")
    monkeypatch.setattr(assets, "build_guest_image", lambda _progress: image)
    return tmp_path


def test_a_brought_qemu_does_not_become_what_a_later_test_runs(builds: Path) -> None:
    assets.build_assets(console_progress(), lab=False)
    brought = QemuBinary(Path("/somewhere/qemu"))
    assert assets.build_assets(console_progress(), lab=False, qemu=brought).qemu == brought
    assets.build_assets(console_progress(), lab=False, base="10.2")
    manifest = json.loads((builds / assets.MANIFEST).read_text(encoding="utf-8"))
    assert manifest["qemu"] == str(builds / f"qemu-{assets.DEFAULT_BASE}")
