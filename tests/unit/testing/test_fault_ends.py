"""The end of an update with a fault: the tap, the end of the migration, and a guest that is lost."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import fault_ends
import main_channel_faults
from cprlib.errors import QemuFailed
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.linux.descriptors import Descriptor, DescriptorTable
from cprlib.linux.tap import TapQueue
from cprlib.testing.guest_case import GuestCase
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_view import TapView
from cprlib.update import outcome
from cprlib.update.faults import faults_named
from cprlib.update.live_update import UpdateHook
from cprlib.update.mechanism import Mechanism
from cprlib.update.outcome import Migration
from cprlib.update.results import FaultResult, ProcessView
from tests.unit.qemu.samples import machine_settings

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


@pytest.mark.parametrize(
    ("then", "seen", "left"),
    [("failed", Outcome.PASS, ""), ("completed", Outcome.FAIL, ""), ("", Outcome.FAIL, "0, then 1 socket")],
)
def test_a_target_that_stays_gets_time_to_fail(
    then: str, seen: Outcome, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is ready first; a target that ends instead breaks its connection before it is gone.

    A source that leaves a descriptor open is accused.
    """
    before = ProcessView(DescriptorTable(1, ()), ())
    opened = Descriptor(9, "socket:[7]", 8, 7, os.O_RDWR)
    after = replace(before, table=DescriptorTable(1, (opened,) if left else ()))
    statuses = {"source": ["failed"], "target": ["active", then]}

    def query(machine: SimpleNamespace) -> Migration:
        left = statuses[machine.name]
        if not (status := left.pop(0) if len(left) > 1 else left[0]):
            raise QemuFailed("run query-migrate", "the connection broke")
        return Migration(status, "")

    for module in (outcome, main_channel_faults):
        monkeypatch.setattr(module, "query_migration", query)
    monkeypatch.setattr(main_channel_faults, "vhost_started", lambda _: True)
    monkeypatch.setattr(main_channel_faults, "expect_reset_keeps_tap", lambda *_: None)
    monkeypatch.setattr(main_channel_faults, "view_after_release", lambda *_, **__: after)
    case = cast(Any, GuestCase(tmp_path, CaseEvidence("x", Mechanism.CPR, updates=1)))
    case.expect_answers = lambda _: None
    source, target = (
        SimpleNamespace(
            name=name,
            qmp=None,
            messages="",
            status=lambda: "running",
            wait_status=lambda *_, **__: None,
            exit_status=lambda: None,
            wait_exit=lambda _: 1,
            settings=machine_settings(),
        )
        for name in statuses
    )
    update = SimpleNamespace(begin=lambda: None, target=target, source_before=before)
    monkeypatch.setattr(GuestCase, "guest", SimpleNamespace(machine=source, plan_update=lambda *_, **__: update))
    main_channel_faults.fail_main_channel(case, "stays", UpdateHook(), "failed", "failed")
    checks = {check.name: check for check in case.evidence.checks}
    assert checks["stays-failed"].outcome is seen
    assert then or "gone with exit status 1" in checks["stays-failed"].message
    assert checks["stays-source-runs"].outcome is Outcome.PASS
    assert checks["stays-descriptors"].outcome is (Outcome.FAIL if left else Outcome.PASS)
    assert left in checks["stays-descriptors"].message
