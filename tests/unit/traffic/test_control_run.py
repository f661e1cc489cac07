"""A control run shows whether the guest carries the rate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cprlib.traffic.control_run import ControlRun, check_instrument, check_measurement
from cprlib.traffic.result import TrafficResult
from highest_rate import RateTrial

from .test_result import PERIOD, result_of, simulate

pytestmark = pytest.mark.fast

PACKETS = 2000


def result_with_delays(delays: list[int]) -> TrafficResult:
    """Nothing is lost; each packet reaches the guest after this delay."""
    world = simulate([([delay], [PERIOD // 10], []) for delay in delays])
    return result_of(world, world.log)


def slow_guest(capacity: float) -> TrafficResult:
    """A guest that answers this share of the rate; the others wait in its queue."""
    return result_with_delays([round(number * PERIOD * (1 / capacity - 1)) + PERIOD for number in range(PACKETS)])


def problems_of(result: TrafficResult, *, queue_length: int = PACKETS) -> tuple[str, ...]:
    """Of a measured run that is like its control run."""
    return check_measurement(result, ControlRun((result,)), queue_length).problems


@pytest.mark.parametrize(("capacity", "share"), [(0.5, 500), (0.7, 700)])
def test_a_guest_below_the_rate_is_a_problem_although_it_loses_nothing(capacity: float, share: int) -> None:
    result = slow_guest(capacity)
    assert result.lost == 0
    (problem,) = problems_of(result)
    answered = int(problem.split("the guest answered ")[1].split()[0])
    assert answered == pytest.approx(share, abs=10)
    assert problem.endswith("of 1,000 packets/s: lower the rate")
    assert problems_of(result, queue_length=3 * PACKETS) == ()  # what waits has room
    assert not RateTrial.of(result).carried


@pytest.mark.parametrize("end", [PACKETS // 2, PACKETS - 10])
def test_a_stall_that_ended_before_the_last_packet_is_none(end: int) -> None:
    stall = range(end - 180, end)
    held = [(end - number + 1) * PERIOD if number in stall else PERIOD for number in range(PACKETS)]
    result = result_with_delays(held)
    assert problems_of(result) == ()
    assert RateTrial.of(result).carried


def test_answers_that_still_arrive_at_the_end_are_not_lost_by_qemu() -> None:
    world = simulate([([PERIOD], [PERIOD // 10], [])] * PACKETS + [([], [], [])])
    lost = result_of(world, world.log)
    assert check_instrument(lost).problems == ()
    late = replace(lost, instrument=replace(lost.instrument, still_arriving=True))
    assert check_instrument(late).problems == ("answers still arrived when the capture ended",)


def test_what_a_later_run_shows_is_not_the_machines() -> None:
    """Neither its pause nor its slow guest; only its length counts."""
    before = slow_guest(1.0)
    paused = result_with_delays([max(PERIOD, (300 - number) * PERIOD) for number in range(PACKETS)])
    for later in (paused, slow_guest(0.5)):
        control_run = ControlRun((before,), later)
        assert control_run.floor_ms == before.interruption.return_.high_ms
        assert control_run.sent == 2 * PACKETS
        assert check_measurement(before, control_run, PACKETS).problems == ()


def test_a_guest_that_carries_the_rate_is_none() -> None:
    assert problems_of(slow_guest(1.0)) == ()
    assert RateTrial.of(slow_guest(0.99)).carried
