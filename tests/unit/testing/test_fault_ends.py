"""The end of an update with a fault: the tap, the end of the migration, and a guest that is lost."""

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
from cprlib.update.faults import faults_named
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
        (view(q8=True, q9=True), "queues/tap0/queue: attached was 1, is absent"),
        (view(q8=False), "queues/tap0/queue: detached was 1, is absent"),
        (view(q8=False, q9=True, q10=True), "queues/tap0/queue: detached was 1, is 2"),
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


@pytest.mark.parametrize(
    ("fault", "migration", "target_ran", "failed"),
    [
        ("target-killed-loading", "failed", False, set()),
        ("target-killed-loading", "cancelled", False, {"ends"}),
        ("cancel-fds-sent", "cancelled", False, set()),
        ("cancel-fds-sent", "failed", False, {"ends"}),
        ("no-cpr-channel", "none", False, set()),
        ("target-killed-loading", "failed", True, {"target-never-ran"}),
    ],
)
def test_a_failed_update_ends_as_its_fault_has_it_end(
    fault: str, migration: str, target_ran: bool, failed: set[str], tmp_path: Path
) -> None:
    case = GuestCase(tmp_path, CaseEvidence("x", Mechanism.CPR, updates=1))
    result = SimpleNamespace(
        fault=faults_named(fault)[0],
        migration=migration,
        error="a reason",
        announced=migration,
        run_events=(),
        settings_changed=(),
        state_before="running",
        state_after="running",
        target_ran=target_ran,
    )
    fault_ends._check_source(cast(MeasuredCase, case), cast(FaultResult, result))
    assert {check.name for check in case.evidence.checks if check.outcome is Outcome.FAIL} == failed


@pytest.mark.parametrize(
    ("fault", "seen", "outcome"),
    [
        ("source-killed-fds-received", {}, Outcome.PASS),
        ("source-killed-fds-received", {"target_state": "running"}, Outcome.FAIL),
        ("source-killed-fds-received", {"target_ran": True}, Outcome.FAIL),
        ("target-killed-after-resume", {"target_ran": True, "state_after": "postmigrate"}, Outcome.PASS),
        ("target-killed-after-resume", {"target_ran": True, "state_after": "running"}, Outcome.FAIL),
        ("target-killed-after-resume", {"target_ran": True, "back_ms": 7.0}, Outcome.FAIL),
    ],
)
def test_no_qemu_may_run_a_lost_guest(fault: str, seen: dict[str, object], outcome: Outcome, tmp_path: Path) -> None:
    case = GuestCase(tmp_path, CaseEvidence("x", Mechanism.CPR, updates=1))
    states = {"state_after": "gone", "target_state": "inmigrate", "back_ms": None, "target_ran": False}
    result = SimpleNamespace(fault=faults_named(fault)[0], **(states | seen))
    fault_ends._check_nowhere(cast(MeasuredCase, case), cast(FaultResult, result))
    assert [check.outcome for check in case.evidence.checks] == [outcome]
