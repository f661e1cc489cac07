"""A series of updates with faults: one that does not end, and its cause; one whose phase was not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import failed_update
from cprlib.errors import DeadlineExceeded
from cprlib.evidence.records import Outcome
from cprlib.linux.kernel_trace import KernelTrace
from cprlib.qemu.machine import Machine
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.probes import Probes
from cprlib.update.faults import faults_named
from cprlib.update.results import FaultResult
from failed_update import FaultSequence
from tests.unit.evidence.test_update_checks import fault_result
from tests.unit.testing.test_guest_case import fake_machine, guest_case

pytestmark = pytest.mark.fast
CAUSE = "the target was killed from outside by SIGKILL"


@pytest.mark.parametrize(
    ("failure", "cause", "outcome"),
    [
        ("", CAUSE, Outcome.INCONCLUSIVE),
        ("the source hangs", CAUSE, Outcome.FAIL),
        ("", "", Outcome.FAIL),
    ],
)
def test_an_update_that_does_not_end_has_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, cause: str, outcome: Outcome
) -> None:
    def inject(*_: object) -> None:
        raise DeadlineExceeded("wait for the end of an update", "nothing after 30.0 s")

    monkeypatch.setattr(failed_update, "inject_fault", inject)
    case = guest_case(tmp_path, lambda: None)
    monkeypatch.setattr(case, "qemu_failure", lambda: failure)
    monkeypatch.setattr(case, "external_cause", lambda: cause)
    updates = FaultSequence(cast(MeasuredCase, case), cast(KernelTrace, None), cast(Probes, None), None)
    assert not updates._one(*faults_named("cpr-garbage"))
    (check,) = case.evidence.checks
    assert (check.name, check.outcome, (failure or cause) in check.message) == ("ends", outcome, True)


@pytest.mark.parametrize("name", ["cpr-garbage", "cancel-fds-sent", "source-killed-fds-sent", "cancel-state-loading"])
def test_an_update_that_completes_undisturbed_accuses_no_qemu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The source was too slow for the harness to see the phase: the guest is in the target, and answers there."""
    case = guest_case(tmp_path, lambda: None)
    target = fake_machine(tmp_path, "target")
    target.settings = SimpleNamespace(netdevs=[SimpleNamespace(vhost=False)])
    seen = replace(
        fault_result(name),
        not_reached="nothing after 30 s",
        migration="completed",
        error="",
        target_exit=None,
        source_state="postmigrate",
        target_state="running",
    )

    def inject(*_: object) -> FaultResult:
        case.guest.machine = cast(Machine, target)
        return seen

    monkeypatch.setattr(failed_update, "inject_fault", inject)
    probes = SimpleNamespace(wait_answers=lambda _: None)
    updates = FaultSequence(cast(MeasuredCase, case), cast(KernelTrace, None), cast(Probes, probes), None)
    assert updates._one(seen.fault)
    outcomes = {check.name: check.outcome for check in case.evidence.checks}
    assert outcomes == {"reached": Outcome.INCONCLUSIVE, "traffic": Outcome.PASS}
    (record,) = case.evidence.faults
    assert (record.reached, record.died_ns, record.may_have_moved) == (False, None, True)


@pytest.mark.parametrize(("late_ms", "outcome"), [(900.0, Outcome.PASS), (2000.0, Outcome.FAIL)])
def test_a_source_that_waits_after_a_fault_is_found(tmp_path: Path, late_ms: float, outcome: Outcome) -> None:
    case = guest_case(tmp_path, lambda: None)
    updates = FaultSequence(cast(MeasuredCase, case), cast(KernelTrace, None), cast(Probes, None), None)
    updates._back_ms = {"at-start": 70.0, "with-fds": 8.0, "vm-stopped": 15.0, "loading": late_ms}
    updates._expect_back_in_time()
    (check,) = case.evidence.checks
    assert (check.name, check.outcome) == ("resumes-in-time", outcome)
    assert ("loading 2000 ms" in check.message) == (outcome is Outcome.FAIL)
