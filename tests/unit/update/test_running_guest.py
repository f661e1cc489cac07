"""A guest that does not boot: the error says whether its QEMU hangs."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from cprlib.errors import CprlibError, DeadlineExceeded, GuestFailed, QemuFailed
from cprlib.qemu.machine import Machine
from cprlib.update import running_guest

pytestmark = pytest.mark.fast
HANGS = "the source hangs: no reply to query-status"


@pytest.mark.parametrize(("failure", "expected"), [(HANGS, QemuFailed), ("", DeadlineExceeded)])
def test_boot_that_takes_too_long(
    failure: str, expected: type[CprlibError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_guest, "BOOT_SECONDS", 0.01)
    console = tmp_path / "console.log"
    console.write_text("[    0.000000] Linux version\n", encoding="utf-8")
    machine = Mock(spec=Machine, settings=Mock(plugged=False), files=Mock(console=console))
    machine.failure.return_value = failure
    with pytest.raises(expected, match=failure or "last lines of its console") as caught:
        running_guest._boot(machine)
    assert "Linux version" in caught.value.details


def test_a_guest_whose_driver_takes_no_nic_has_not_booted(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_text("[    6.833319] virtio_net virtio1: device advertises no control queue\n", encoding="utf-8")
    guest = Mock(machine=Mock(settings=Mock(nics=("nic0",)), files=Mock(console=console)))
    guest.agent.network.return_value.nics = ()
    with pytest.raises(GuestFailed, match=r"it has taken 0 of 1 NICs; .*advertises no control queue.*; leave out"):
        running_guest._require_nics(guest)
