"""Which guests may come from a template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.parameters import Boot, SuiteParameters
from cprlib.testing.restored_guest import may_restore
from cprlib.update.mechanism import Mechanism

pytestmark = pytest.mark.fast

RUN, SPEC = SuiteParameters(boot=Boot.TEMPLATE), GuestSpec(vhost=True)


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QemuBinary:
    monkeypatch.setenv("CPRLIB_LAB", "uml")
    (tmp_path / "qemu").write_bytes(b"\x7fELF")
    return QemuBinary(tmp_path / "qemu")


def test_an_ordinary_guest_in_the_lab_may(qemu: QemuBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_restore(SPEC, RUN, qemu)
    for lab in ("kvm", ""):
        monkeypatch.setenv("CPRLIB_LAB", lab)
        assert not may_restore(SPEC, RUN, qemu)


@pytest.mark.parametrize(
    "spec",
    [
        GuestSpec(boots=True),
        GuestSpec(netdevs=(TapNetdev(),)),
        GuestSpec(plugged=True),
        GuestSpec(Mechanism.FD_SHARE),
    ],
)
def test_a_special_guest_boots(qemu: QemuBinary, spec: GuestSpec) -> None:
    assert not may_restore(spec, RUN, qemu)


@pytest.mark.parametrize("change", [{"boot": Boot.FRESH}, {"mutant": "3"}, {"accelerator": "kvm"}])
def test_the_run_may_want_a_boot(qemu: QemuBinary, change: dict[str, Any]) -> None:
    assert not may_restore(SPEC, replace(RUN, **change), qemu)


def test_a_script_may_start_another_qemu(qemu: QemuBinary) -> None:
    qemu.path.write_text("#!/bin/sh\n")
    assert not may_restore(SPEC, RUN, qemu)
