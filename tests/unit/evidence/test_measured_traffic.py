"""Losses in a control run after the updates count, except those that the machine explains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.evidence.measured_traffic import after_update_check
from cprlib.evidence.records import Outcome
from cprlib.traffic.control_run import ControlRun
from tests.unit.traffic.test_result import PERIOD, result_of, simulate

pytestmark = pytest.mark.fast

Fate = tuple[list[int], list[int], list[int]]
GOOD: list[Fate] = [([PERIOD], [PERIOD], [])]
LOST: Fate = ([], [], [])
PAUSE: list[Fate] = [([(20 - number) * PERIOD], [PERIOD], []) for number in range(5)] + [LOST] * 15  # of 20 ms


@pytest.mark.parametrize(
    ("queue_length", "control_run_ms", "outcome"),
    [
        (5, 2.0, Outcome.INCONCLUSIVE),
        (5, 0.5, Outcome.FAIL),  # the machine had no such pauses
        (5, None, Outcome.FAIL),
        (5000, 2.0, Outcome.FAIL),  # the queue was not full
    ],
)
def test_a_full_tap_queue_is_the_machines_where_it_stood_still_before(
    queue_length: int, control_run_ms: float | None, outcome: Outcome
) -> None:
    world = simulate(GOOD * 5 + PAUSE + GOOD * 5)
    result = result_of(world, world.log)
    before = cast("ControlRun", SimpleNamespace(floor_ms=control_run_ms))
    assert after_update_check(result, before, queue_length).outcome is outcome
    assert after_update_check(result, None, queue_length).outcome is Outcome.FAIL
