"""Single packets that are lost or slow, and a QEMU that is busy at rest, are found relative to before the update."""

from __future__ import annotations

import os
from typing import cast

import pytest

from cprlib.evidence.records import Outcome
from cprlib.guest.agent import AgentConnection
from cprlib.linux.procfs import task_use
from cprlib.testing import quiet_nic
from cprlib.testing.quiet_nic import Delays, Rest, lonely_check, rest_checks, watch_rest

pytestmark = pytest.mark.fast

BEFORE: Delays = {"a": 4.0, "b": 6.0}


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (BEFORE, {"a": 30.0, "b": 5.0}, Outcome.PASS),
        (BEFORE, {"a": 400.0, "b": 5.0}, Outcome.FAIL),
        (BEFORE, {"a": None, "b": 5.0}, Outcome.FAIL),
        ({"a": None, "b": 6.0}, {"a": None, "b": 5.0}, Outcome.INCONCLUSIVE),
    ],
)
def test_single_packets(before: Delays, after: Delays, outcome: Outcome) -> None:
    assert lonely_check(before, after).outcome is outcome


def test_rest() -> None:
    before = Rest(0.02, 120, 6)
    for after, failed in (
        (Rest(0.08, 300, 40), []),
        (Rest(0.8, 120, 6), ["processor-time-at-rest"]),
        (Rest(0.02, 10_000, 6), ["context-switches-at-rest"]),
        (Rest(0.02, 120, 1000), ["interrupts-at-rest"]),
    ):
        assert [check.name for check in rest_checks(before, after) if check.outcome is Outcome.FAIL] == failed


@pytest.mark.parametrize(
    ("used", "processors", "periods"),
    [
        ([0.7, 0.02, 0.03], 0.02, 3),  # a burst
        ([0.7, 0.9, 0.8, 0.02], 0.02, 4),  # work from before that ends
        ([0.7] * 15, 0.7, 15),  # busy for ever
    ],
)
def test_lowest_figures_of_a_rest_count(
    used: list[float], processors: float, periods: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    remaining = iter(used)

    def watch_period(pid: int, _: AgentConnection) -> Rest:
        seen.append(pid)
        return Rest(next(remaining), 100, 5)

    monkeypatch.setattr(quiet_nic, "_watch_period", watch_period)
    agent = cast("AgentConnection", None)
    assert (watch_rest(7, agent).processors, len(seen)) == (processors, periods)


def test_processor_time_of_a_process_rises() -> None:
    first = task_use(os.getpid())
    sum(range(300_000))
    assert task_use(os.getpid()).run_ns > first.run_ns
