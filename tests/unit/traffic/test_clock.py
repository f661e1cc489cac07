"""The guest's clock is converted to the host's, across drift and across the step of an update."""

from __future__ import annotations

import itertools
import random

import pytest

from cprlib.traffic.clock import ClockModel, estimate_clock
from cprlib.traffic.packet_records import Arrival

START = 1_760_000_000_000_000_000


def samples(
    drift: float, seconds: float, seed: int, stop: range | None = None, rate: int = 500
) -> list[tuple[Arrival, float]]:
    """Samples with random delays and the true offset at T2.

    :param stop: ns after the start in which the guest and its clock stand still; packets wait for its end.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    made = []
    for number in range(int(seconds * rate)):
        t1 = START + number * 1_000_000_000 // rate
        arrive = t1 + 20_000 + int(chance.expovariate(1 / 80_000))
        if stop is not None and arrive - START in stop:
            arrive = START + stop.stop + int(chance.expovariate(1 / 80_000))
        leave = arrive + 10_000
        stood = len(stop) if stop is not None and arrive - START >= stop.stop else 0
        offset = 1e6 + drift * (arrive - START) - stood
        t4 = leave + 20_000 + int(chance.expovariate(1 / 80_000))
        made.append((Arrival(0, 0, t1, round(arrive + offset), round(leave + offset), t4), offset))
    return made


def steps(clock: ClockModel) -> list[float]:
    """Size in ns of each step of the clock; -0.3e9 for a guest that stopped for 0.3 s."""
    return [after.offset_ns - before.offset_at(before.last_ns) for before, after in itertools.pairwise(clock.segments)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("drift", [0.0, 50e-6, -50e-6])
def test_offset_and_drift_are_within_the_stated_error(seed: int, drift: float) -> None:
    made = samples(drift, 10, seed)
    clock = estimate_clock(sample for sample, _ in made)
    assert clock is not None
    assert len(clock.segments) == 1
    assert clock.segments[0].drift == pytest.approx(drift, abs=5e-6)
    assert clock.error_ns < 100_000
    for sample, offset in made:
        assert abs(clock.to_host(sample.t2) - (sample.t2 - offset)) <= clock.error_ns + 20_000


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("drift", [0.0, 30e-6])
def test_a_guest_that_stood_still_is_a_step(seed: int, drift: float) -> None:
    made = samples(drift, 10, seed, range(5_000_000_000, 5_300_000_000))
    clock = estimate_clock(sample for sample, _ in made)
    assert clock is not None
    assert steps(clock) == [pytest.approx(-3e8, abs=300_000)]
    assert abs(clock.to_host(clock.segments[1].first_ns) - START - 5_300_000_000) < 5_000_000
    for sample, offset in made:
        assert abs(clock.to_host(sample.t2) - (sample.t2 - offset)) < 300_000


def test_a_clock_that_jumps_back_is_one_step() -> None:
    """Late answers follow their packets on the host's clock, not on the guest's."""
    back = 2_000_000_000
    made = []
    for number in range(4000):
        t1 = START + number * 1_000_000
        offset = -back if number >= 2000 else 0
        made.append(Arrival(number, number, t1, t1 + 50_000 + offset, t1 + 60_000 + offset, t1 + 110_000))
    clock = estimate_clock(made)
    assert clock is not None
    assert len(clock.segments) == 2
    assert {round(segment.offset_ns / 1e6) for segment in clock.segments} == {0, -2000}
    assert clock.error_ns < 100_000


def test_without_samples_there_is_no_model() -> None:
    assert estimate_clock([]) is None


def test_one_sample_bounds_the_offset() -> None:
    clock = estimate_clock([Arrival(0, 0, 1000, 2500, 2600, 1600)])
    assert clock is not None
    assert clock.segments[0].offset_ns == 1250
    assert clock.error_ns == 250


def chain(updates: int, stood_ns: int, every_ns: int, catch_up_ns: int, seed: int) -> list[tuple[Arrival, float]]:
    """Several updates; after each the guest processes the packets that waited, with less and less delay."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    stops = [START + (number + 1) * every_ns for number in range(updates)]
    made = []
    for number in range((updates + 1) * every_ns // 1_000_000):
        t1 = START + number * 1_000_000
        arrive = t1 + 20_000 + int(chance.expovariate(1 / 80_000))
        late = 0
        for stop in stops:
            resume = stop + stood_ns
            if stop <= arrive < resume:
                arrive = resume + (arrive - stop) // 4  # worked off four times as fast as they came
            if resume <= arrive:
                late = max(0, catch_up_ns - 2 * (arrive - resume))
        offset = 1e6 - stood_ns * sum(arrive >= stop + stood_ns for stop in stops)
        t4 = arrive + 30_000 + late + int(chance.expovariate(1 / 80_000))
        made.append((Arrival(0, 0, t1, round(arrive + offset), round(arrive + 10_000 + offset), t4), offset))
    return made


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stood_ms", [60, 200, 400])
@pytest.mark.parametrize("catch_up_ms", [0, 300, 600])
def test_each_update_of_a_chain_is_a_step_though_the_guest_has_to_catch_up(
    seed: int, stood_ms: int, catch_up_ms: int
) -> None:
    made = chain(5, stood_ms * 1_000_000, 1_500_000_000, catch_up_ms * 1_000_000, seed)
    clock = estimate_clock(sample for sample, _ in made)
    assert clock is not None
    assert steps(clock) == [pytest.approx(-stood_ms * 1e6, abs=1e6)] * 5
    errors = [abs(clock.to_host(sample.t2) - (sample.t2 - offset)) for sample, offset in made]
    assert max(errors) < 1_000_000
