"""Templates of guests: their keys, and the way from a test's results into the store."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build import guest_template
from cprlib.build.guest_template import (
    FOLDER,
    STATE,
    GuestTemplate,
    complete_template,
    find_template,
    store_templates,
    template_key,
)
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.netdev import TapNetdev

from ..qemu.samples import machine_settings

KEY = "0123456789" * 4


@pytest.fixture
def settings(tmp_path: Path) -> MachineSettings:
    files = {name: tmp_path / name for name in ("qemu", "kernel", "initramfs")}
    for path in files.values():
        path.write_text("x")
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "bios.bin").write_text("x")
    return machine_settings(
        qemu=QemuBinary(files["qemu"], tmp_path / "share"),
        kernel=files["kernel"],
        initramfs=files["initramfs"],
        kernel_arguments="quiet tsc_early_khz=2100000 cprlib.ipv4=x",
    )


def made(results: Path, settings: MachineSettings, key: str = KEY) -> Path:
    """A template in the results of a test."""
    folder = results / "data" / "cases" / "case" / FOLDER
    folder.mkdir(parents=True)
    (folder / STATE).write_bytes(b"state")
    complete_template(folder, key, settings)
    return folder


@pytest.fixture(autouse=True)
def tsc(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Rate of the host's TSC."""
    rates: list[int | None] = [2100000]
    monkeypatch.setattr(guest_template, "host_tsc_khz", lambda: rates[-1])
    return rates


def test_the_key_has_everything_that_the_state_depends_on(settings: MachineSettings) -> None:
    key = template_key(settings)
    assert key == template_key(replace(settings, kernel_arguments="quiet tsc_early_khz=2100021 cprlib.ipv4=x"))
    netdev = settings.netdevs[0]
    others = [
        replace(settings, kernel_arguments="quiet"),
        replace(settings, netdevs=(replace(netdev, vhost=False),)),
        replace(settings, netdevs=(TapNetdev(queues=2, vhost=True, cpr=True),)),
        replace(settings, machine="pc"),
        replace(settings, vcpus=2),
        replace(settings, memory_mib=256),
        replace(settings, extra=("-device", "x")),
    ]
    assert len({key, *(template_key(item) for item in others)}) == len(others) + 1


@pytest.mark.parametrize("name", ["qemu", "kernel", "initramfs", "share/bios.bin"])
def test_a_changed_file_has_another_key(settings: MachineSettings, tmp_path: Path, name: str) -> None:
    key = template_key(settings)
    os.utime(tmp_path / name, ns=(1, 1))
    assert template_key(settings) != key


def test_a_template_moves_from_the_results_into_the_store(settings: MachineSettings, tmp_path: Path) -> None:
    folder = made(tmp_path / "results", settings)
    assert find_template(KEY) is None
    store_templates(tmp_path / "results")
    found = find_template(KEY)
    assert found is not None
    assert not folder.exists()
    assert found.state.read_bytes() == b"state"
    assert found.kernel_arguments == settings.kernel_arguments


@pytest.mark.parametrize("damage", ["incomplete", "key"])
def test_what_is_no_template_is_removed(settings: MachineSettings, tmp_path: Path, damage: str) -> None:
    folder = made(tmp_path / "results", settings, key="../../x" if damage == "key" else KEY)
    if damage == "incomplete":
        (folder / guest_template.RECORD).unlink()
    store_templates(tmp_path / "results")
    assert not folder.exists()
    assert find_template(KEY) is None
    assert not (tmp_path / "x").exists()


def test_a_host_with_another_clock_does_not_use_it(
    settings: MachineSettings, tmp_path: Path, tsc: list[int | None]
) -> None:
    made(tmp_path / "results", settings)
    store_templates(tmp_path / "results")
    for rate, usable in ((2100021, True), (2103000, False), (None, False)):
        tsc.append(rate)
        assert isinstance(find_template(KEY), GuestTemplate) == usable


def test_a_template_replaces_one_for_another_clock(
    settings: MachineSettings, tmp_path: Path, tsc: list[int | None]
) -> None:
    made(tmp_path / "first", settings)
    store_templates(tmp_path / "first")
    tsc.append(2103000)
    later = replace(settings, kernel_arguments="quiet tsc_early_khz=2103000 cprlib.ipv4=x")
    made(tmp_path / "second", later)
    store_templates(tmp_path / "second")
    found = find_template(KEY)
    assert found is not None
    assert found.kernel_arguments == later.kernel_arguments


def test_old_templates_are_removed(settings: MachineSettings, tmp_path: Path) -> None:
    made(tmp_path / "first", settings)
    store_templates(tmp_path / "first")
    found = find_template(KEY)
    assert found is not None
    os.utime(found.state.parent, (1, 1))
    made(tmp_path / "second", settings, key=KEY[::-1])
    store_templates(tmp_path / "second")
    assert find_template(KEY) is None
    assert find_template(KEY[::-1]) is not None
