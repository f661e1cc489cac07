"""Damaged answers, and disturbances after the updates, count, except those that the machine explains."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.measured_traffic import after_update_check, with_traffic
from cprlib.evidence.records import INSTRUMENT_CHECK, Outcome, Role
from cprlib.traffic.control_run import ControlRun
from cprlib.traffic.result import TrafficResult
from cprlib.update.mechanism import Mechanism
from tests.unit.traffic.test_result import PERIOD, result_of, simulate

pytestmark = pytest.mark.fast

Fate = tuple[list[int], list[int], list[int]]
GOOD: list[Fate] = [([PERIOD], [PERIOD], [])]
LOST: Fate = ([], [], [])
PAUSE: list[Fate] = [([(20 - number) * PERIOD], [PERIOD], []) for number in range(5)] + [LOST] * 15  # of 20 ms


@pytest.mark.parametrize(("queue_length", "outcome"), [(5, Outcome.INCONCLUSIVE), (5000, Outcome.FAIL)])
def test_a_full_tap_queue_may_be_the_machines(queue_length: int, outcome: Outcome) -> None:
    """As in the measured run, also where the machine had no such pause before."""
    world = simulate(GOOD * 5 + PAUSE + GOOD * 5)
    result = result_of(world, world.log)
    for control_run_ms in (3.0, 0.1, None):
        before = cast("ControlRun", SimpleNamespace(results=(), floor_ms=control_run_ms))
        assert after_update_check(result, before, queue_length).outcome is outcome
    assert after_update_check(result, None, queue_length).outcome is outcome


def test_a_full_tap_queue_explains_no_packet_of_the_guest() -> None:
    world = simulate(GOOD * 5 + PAUSE + [([PERIOD], [], [])] + GOOD * 5)
    assert after_update_check(result_of(world, world.log), None, 5).outcome is Outcome.FAIL


COPIED: list[Fate] = [([PERIOD], [PERIOD, PERIOD + 1000], [])]
HELD: list[Fate] = [([4 * PERIOD], [PERIOD], [])]  # others overtake it


@pytest.mark.parametrize(
    ("after", "before", "outcome"),
    [
        (GOOD, GOOD, Outcome.PASS),
        (COPIED, GOOD, Outcome.FAIL),
        (HELD, GOOD, Outcome.FAIL),
        (COPIED, COPIED, Outcome.INCONCLUSIVE),
        (HELD, HELD, Outcome.INCONCLUSIVE),
        (HELD, COPIED, Outcome.FAIL),
    ],
)
def test_duplicates_and_reordering_after_the_updates_are_not_the_machines(
    after: list[Fate], before: list[Fate], outcome: Outcome
) -> None:
    later, earlier = (
        result_of(world, world.log) for world in (simulate(GOOD * 5 + one + GOOD * 5) for one in (after, before))
    )
    assert after_update_check(later, ControlRun((earlier,)), 5000).outcome is outcome


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize(("pause_ms", "outcome"), [(3100, Outcome.INCONCLUSIVE), (2900, Outcome.FAIL)])
def test_reordering_is_the_machines_where_tun_forgot_the_flows(pause_ms: int, outcome: Outcome, answers: bool) -> None:
    """Packets, or only the answers, of which tun remembers the queue, wait for 3 s."""
    waits = [[(pause_ms - number) * PERIOD] for number in range(pause_ms)]
    pause: list[Fate] = [([PERIOD], wait, []) if answers else (wait, [PERIOD], []) for wait in waits]
    world = simulate(GOOD * 5 + pause + GOOD + HELD + GOOD * 5)
    one_queue = result_of(world, world.log)
    result = replace(one_queue, flows=one_queue.flows * 2)
    before = cast("ControlRun", SimpleNamespace(results=(), floor_ms=200.0))
    assert after_update_check(result, before, 5000).outcome is outcome
    assert after_update_check(one_queue, before, 5000).outcome is Outcome.FAIL


def with_damage(damaged: int) -> TrafficResult:
    """A run in which the first answers come back with another time stamp T1, as if QEMU had changed a bit of it."""
    world = simulate(GOOD * 20)
    for index in range(damaged):
        world.columns.t1[index] ^= 1 << 20
    return result_of(world, world.log)


@pytest.mark.parametrize(
    ("damaged", "in_control", "role", "outcome"),
    [
        (0, 0, Role.UPDATE, Outcome.PASS),
        (2, 0, Role.UPDATE, Outcome.FAIL),
        (2, 1, Role.UPDATE, Outcome.INCONCLUSIVE),
        (2, 0, Role.CONTROL_RUN, Outcome.INCONCLUSIVE),
        (2, 0, Role.NEGATIVE_CONTROL, Outcome.INCONCLUSIVE),
    ],
)
def test_damaged_answers_are_lost_and_no_problem_of_the_instrument(
    damaged: int, in_control: int, role: Role, outcome: Outcome
) -> None:
    control_run = None if role is Role.CONTROL_RUN else ControlRun((with_damage(in_control),))
    case = with_traffic(CaseEvidence("x", Mechanism.CPR, role), with_damage(damaged), control_run, 5000)
    checks = {check.name: check for check in case.checks}
    assert checks["answers-undamaged"].outcome is outcome
    assert case.loss.return_ == damaged
    if not in_control:
        assert checks[INSTRUMENT_CHECK].outcome is Outcome.PASS


def test_without_the_log_damage_is_unknown() -> None:
    world = simulate(GOOD * 20)
    case = with_traffic(CaseEvidence("x", Mechanism.CPR), result_of(world, None), None, 5000)
    assert "answers-undamaged" not in {check.name for check in case.checks}
