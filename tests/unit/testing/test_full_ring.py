"""Frames of a guest that wait in QEMU are counted at both ends."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

import full_ring
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome, Role
from cprlib.testing.checks import CaseChecks
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.mechanism import Mechanism

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("later", "outcome"),
    [([5, 4, 5], Outcome.PASS), ([5] * 999, Outcome.FAIL)],
    ids=["the guest counts later, and sends another", "a copy"],
)
def test_frames_are_counted_once_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: list[int], outcome: Outcome
) -> None:
    counts = iter(later)
    monkeypatch.setattr(full_ring, "ARRIVE_S", 0.1)
    monkeypatch.setattr(full_ring, "_wait_settled", lambda _: 4)
    monkeypatch.setattr(full_ring, "_frames_beyond", lambda _: next(counts))
    case = CaseChecks(tmp_path, CaseEvidence("x", Mechanism.CPR, Role.CHECKS, updates=1))
    with full_ring.each_frame_once(cast("MeasuredCase", case), "across-a-pause"):
        pass
    (check,) = case.evidence.checks
    assert (check.name, check.outcome) == ("each-frame-once-across-a-pause", outcome)
