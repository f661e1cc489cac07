"""A series of updates with faults: one that does not end, and its cause."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

import failed_update
from cprlib.errors import DeadlineExceeded
from cprlib.evidence.records import Outcome
from cprlib.linux.kernel_trace import KernelTrace
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.probes import Probes
from cprlib.update.faults import faults_named
from failed_update import FaultSequence
from tests.unit.testing.test_guest_case import guest_case

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
