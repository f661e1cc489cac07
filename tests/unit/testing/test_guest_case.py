"""Checks of an update that has a label, and the messages of both QEMUs for one that failed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.errors import UpdateFailed
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Outcome, Role
from cprlib.testing.guest_case import GuestCase, labelled
from cprlib.testing.watch import FrameWatch
from cprlib.update.mechanism import Mechanism
from cprlib.update.running_guest import RunningGuest

pytestmark = pytest.mark.fast


def test_checks_of_a_labelled_update_keep_their_property() -> None:
    known, other = Check("descriptors-same-file", Outcome.PASS), Check("resumed-once", Outcome.PASS)
    assert (labelled(known, "first").name, labelled(known, "first").family) == ("first-same-files", known.name)
    assert (labelled(other, "first").name, labelled(other, "first").family) == ("first-resumed-once", other.name)


def test_a_failed_update_has_the_messages_of_both_qemus(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise UpdateFailed("live-update the guest", "it failed", source_said="kvm: a", target_said="kvm: b")

    machine = SimpleNamespace(settings=SimpleNamespace(netdevs=(), qemu=None), messages="")
    case = GuestCase(tmp_path, CaseEvidence("x", Mechanism.CPR, Role.CHECKS, updates=1))
    case._guest = cast("RunningGuest", SimpleNamespace(machine=machine, live_update=fail, latest_update=None))
    case._frames = cast("FrameWatch", SimpleNamespace(note_nics=lambda: None))
    with pytest.raises(UpdateFailed):
        case.live_update(label="first")
    (check,) = case.evidence.checks
    assert (check.name, check.outcome, check.family) == ("first-update", Outcome.FAIL, "update-completes")
    assert "(the source said: kvm: a; the target said: kvm: b)" in check.message
