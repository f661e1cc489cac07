"""The states of a guest are read again while they differ."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.evidence.equivalence import Snapshot
from cprlib.evidence.records import StatePair
from cprlib.testing import equivalence
from cprlib.testing.equivalence import compare_state
from cprlib.update.mechanism import Mechanism
from cprlib.update.running_guest import RunningGuest

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("different", "differences"), [(3, 0), (4, 1)])
def test_a_difference_has_four_readings_to_go_away(
    monkeypatch: pytest.MonkeyPatch, different: int, differences: int
) -> None:
    """On a slow machine one reading takes longer than differences have to settle."""
    readings = iter(["2"] * different + ["1"] * 9)
    monkeypatch.setattr(equivalence, "SETTLE_S", 0.001)
    monkeypatch.setattr(equivalence, "POLL_S", 0.001)
    monkeypatch.setattr(equivalence, "read_state", lambda *_: Snapshot({"process/threads/x": next(readings)}))
    machine = SimpleNamespace(settings=SimpleNamespace(accelerator="kvm"))
    guest = cast("RunningGuest", SimpleNamespace(machine=machine, mechanism=Mechanism.CPR))
    record = compare_state(guest, Snapshot({"process/threads/x": "1"}), StatePair.UPDATE)
    assert len(record.differences) == differences
