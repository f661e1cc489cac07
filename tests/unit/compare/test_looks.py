"""Looks share one allowance: whatever their number, they use no more than all of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cprlib.campaign.compare.looks import ALARM, ONCE, Allowance


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), max_size=30))
def test_levels_of_all_looks_add_up_to_no_more_than_the_allowance(rounds: list[tuple[float, float]]) -> None:
    allowance = Allowance()
    looks = [allowance.look(fraction, smallest) for fraction, smallest in sorted(rounds)]
    looks.append(allowance.look(0.5, 1.0, last=True))
    used = [look for look in looks if look is not None]
    assert sum(look.durations + look.counts for look in used) <= ALARM + 1e-12
    assert sum(1 - look.confidence for look in used) <= 0.05 + 1e-12


def test_a_look_that_could_decide_nothing_is_kept_for_the_next() -> None:
    allowance = Allowance()
    assert allowance.look(0.5, smallest_p=0.01) is None
    look = allowance.look(0.75, smallest_p=0.001)
    assert look is not None
    assert look.share == 0.75


def test_the_last_look_has_all_that_is_left() -> None:
    allowance = Allowance()
    assert allowance.look(0.4, 0.0001) is not None
    last = allowance.look(0.6, 1.0, last=True)
    assert last is not None
    assert last.share == 0.6
    assert ONCE.durations + ONCE.counts == ALARM
