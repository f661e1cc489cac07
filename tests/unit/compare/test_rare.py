"""Rare losses: how many updates see them, and what counts say of A and B."""

from __future__ import annotations

import pytest

from cprlib.campaign.compare.rare import at_most, chance_to_see, more_often, updates_needed


def test_twenty_nine_updates_see_one_in_ten_with_95_percent() -> None:
    assert updates_needed() == 29
    assert chance_to_see(28) < 0.95 <= chance_to_see(29)


def test_without_an_event_in_29_updates_its_share_is_below_a_tenth() -> None:
    assert at_most(0, 29) < 0.1 < at_most(0, 28)
    assert at_most(0, 0) == 1.0


def test_fishers_test_needs_more_than_one_event() -> None:
    assert more_often(0, 60, 1, 60) == pytest.approx(0.5)
    assert more_often(0, 100, 12, 100) < 0.001
    assert more_often(6, 60, 6, 60) > 0.5
