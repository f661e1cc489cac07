"""Sample guests for the tests of comparison: made up, with noise from a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.build.assets import Assets
from cprlib.campaign.compare.decision import Sample
from cprlib.campaign.compare.guest import COUNTS, DURATIONS, GuestResult
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome, UpdateFigures
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary
from cprlib.traffic.figures import Interruption, InterruptionPerDirection, PerDirection
from cprlib.verdict.findings import Finding
from tests.unit.evidence.samples import good_case

ASSETS = Assets(QemuBinary(Path("/a")), GuestImage(Path("/k"), Path("/i"), "x"))
CASE = "chain-of-updates-loses-nothing"


def refused(about: str, text: str) -> Finding:
    """A finding that the policy refuses."""
    return Finding(Outcome.FAIL, about, text)


def guest(middle_ms: float = 170.0, updates: int = 10, lost: Sequence[int] = (), **more: object) -> GuestResult:
    """Updates of which each takes ``middle_ms`` in every metric; ``lost`` has the packets of updates that lose some."""
    made = GuestResult(
        CASE,
        updates,
        {metric.name: (middle_ms,) * updates for metric in DURATIONS},
        {metric.name: sum(lost) if metric.name == "lost" else 0 for metric in COUNTS},
        {metric.name: len(lost) if metric.name == "lost" else 0 for metric in COUNTS},
        failures=(refused("loss", f"{sum(lost)} packets lost forward"),) if lost else (),
        started_ns=1,
        sent=10_000,
        longest_ms=middle_ms,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def sample(ratio: float, pairs: int = 12, scatter: float = 0.04, seed: int = 1, paired: bool = True) -> Sample:
    """Guests of A and B that scatter; B's take ``ratio`` times as long."""
    draw = random.Random(seed)  # noqa: S311
    machine = [draw.gauss(0, 0.3) for _ in range(pairs)]
    a, b = (
        tuple(guest(170.0 * factor * 2.718281828 ** (shared + draw.gauss(0, scatter))) for shared in machine)
        for factor in (1.0, ratio)
    )
    return Sample(CASE, a, b, paired)


def guest_evidence(updates: int = 3, ratio: float = 1.0, case: str = CASE) -> CaseEvidence:
    """A good case's evidence with figures for each update."""
    seen = Interruption(100.0 * ratio, 104.0 * ratio, 0.0, 2.0)
    rows = tuple(
        UpdateFigures(
            number=number,
            sent=1000,
            loss=PerDirection(0, 0),
            duplicates=PerDirection(0, 0),
            reordered=PerDirection(0, 0),
            interruption=InterruptionPerDirection(seen, seen),
            qemu_downtime_ms=80.0 * ratio,
            stop_to_resume_ms=90.0 * ratio,
            traffic_after_ms=12.0,
        )
        for number in range(1, updates + 1)
    )
    return replace(
        good_case(case),
        test="1-tests/functional/test_chain.py:Chain.test_chain_of_updates_loses_nothing",
        updates=updates,
        per_update=rows,
    )
