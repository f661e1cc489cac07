"""The tap after a failed update: a queue that has changed, is lost or is new is a change; its descriptor is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import fault_ends
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.linux.tap import TapQueue
from cprlib.testing.guest_case import GuestCase
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_view import TapView
from cprlib.update.mechanism import Mechanism
from cprlib.update.results import FaultResult

pytestmark = pytest.mark.fast


def view(**queues: bool) -> TapView:
    """A tap whose queues are detached or not."""
    states = {int(name[1:]): detached for name, detached in queues.items()}
    queue = [TapQueue(number, "tap0", detached, 12, (), 0, "native") for number, detached in states.items()]
    return TapView(tuple(queue), {"tx": "on"})


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (view(q8=False, q9=True), ""),
        (view(q21=True, q20=False), ""),  # in a target
        (view(q8=True, q9=True), "queues with queue attached was 1, is absent"),
        (view(q8=False), "queues with queue detached was 1, is absent"),
        (view(q8=False, q9=True, q10=True), "queues with queue detached was 1, is 2"),
    ],
)
def test_queues_of_the_tap_are_compared(
    now: TapView, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_ends, "read_tap_view", lambda *_: now)
    case = GuestCase(tmp_path, CaseEvidence("x", Mechanism.CPR, updates=1))
    monkeypatch.setattr(GuestCase, "guest", SimpleNamespace(topology=None, machine=None))
    result = cast(FaultResult, SimpleNamespace(after=object()))
    fault_ends._check_tap(cast(MeasuredCase, case), result, view(q8=False, q9=True))
    (check,) = case.evidence.checks
    assert change in check.message
    assert check.outcome is (Outcome.FAIL if change else Outcome.PASS)
