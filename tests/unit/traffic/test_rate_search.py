"""The search for the highest rate ends between the fastest rate without loss and the slowest with loss."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cprlib.errors import UsageError
from highest_rate import RateSearch, RateTrial, find_highest_rate

pytestmark = pytest.mark.fast


def search(capacity: float, limit: float = 16_000, bisections: int = 2) -> RateSearch:
    def measure(rate: float) -> RateTrial:
        lost = math.ceil(rate - capacity) if rate > capacity else 0
        return RateTrial(rate, round(rate), lost, f"{lost} of {rate:.0f} packets lost" if lost else "")

    return find_highest_rate(measure, first=500, limit=limit, bisections=bisections)


def test_it_doubles_and_then_bisects() -> None:
    found = search(2600)
    assert [trial.rate for trial in found.trials] == [500, 1000, 2000, 4000, 3000, 2500]
    assert found.highest == 2500
    assert str(found) == "2,500 packets/s carried without loss; at 3,000: 400 of 3000 packets lost"


def test_it_says_when_nothing_or_everything_was_carried() -> None:
    assert str(search(10, bisections=0)) == "no rate was carried; at 500: 490 of 500 packets lost"
    assert str(search(1e9, limit=4000)) == "4,000 packets/s carried without loss, the highest rate tried"


@given(st.floats(1, 30_000), st.integers(0, 6))
@example(124.5, 2)
def test_the_limit_lies_between_the_two_rates(capacity: float, bisections: int) -> None:
    found = search(capacity, bisections=bisections)
    assert found.highest is None or found.highest <= capacity
    assert found.refused is None or found.refused.rate > capacity - 1
    assert len(found.trials) <= 6 + bisections


@pytest.mark.parametrize("first", [0, -1, 20_000])
def test_a_search_without_room_is_refused(first: float) -> None:
    with pytest.raises(UsageError):
        find_highest_rate(lambda rate: RateTrial(rate, 0, 0), first=first)
