"""Single packets that are lost or slow, and a QEMU that is busy at rest, are found relative to before the update."""

from __future__ import annotations

import os

import pytest

from cprlib.evidence.records import Outcome
from cprlib.linux.procfs import TaskUse, task_use
from cprlib.testing.quiet_nic import Delays, Rest, lonely_check, rest_checks

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
    before = Rest(0.5, TaskUse(10_000_000, 60), 3)
    for after, failed in (
        (Rest(0.5, TaskUse(40_000_000, 150), 20), []),
        (Rest(0.5, TaskUse(400_000_000, 60), 3), ["processor-time-at-rest"]),
        (Rest(0.5, TaskUse(10_000_000, 5000), 3), ["context-switches-at-rest"]),
        (Rest(0.5, TaskUse(10_000_000, 60), 500), ["interrupts-at-rest"]),
    ):
        assert [check.name for check in rest_checks(before, after) if check.outcome is Outcome.FAIL] == failed


def test_processor_time_of_a_process_rises() -> None:
    first = task_use(os.getpid())
    sum(range(300_000))
    assert task_use(os.getpid()).run_ns > first.run_ns
