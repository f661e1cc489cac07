"""Injected faults in the evidence: what happened is taken from the result, never from a sentence."""

from __future__ import annotations

import pytest

from cprlib.evidence.update_faults import fault_record, fault_record_of
from cprlib.linux.descriptors import DescriptorTable
from cprlib.update.faults import faults_named
from cprlib.update.results import FaultResult, ProcessView

pytestmark = pytest.mark.fast

ACTED_NS = 1_764_028_401_515_000_000


def result(name: str) -> FaultResult:
    (fault,) = faults_named(name)
    return FaultResult(
        fault=fault,
        reached=True,
        why="",
        acted_ns=ACTED_NS,
        migration="failed",
        error="Unable to read from socket",
        refused="",
        state_before="running",
        state_after="running",
        back_ms=28.752844,
        before=ProcessView(DescriptorTable(1, ()), ()),
        after=None,
        target_exit=1,
        source_state="running",
        target_state="gone",
        source_messages="one\ntwo\nthree\nfour\n",
        target_messages="",
    )


@pytest.mark.parametrize(("name", "died_ns"), [("source-killed-fds-received", ACTED_NS), ("cpr-garbage", None)])
def test_time_of_death_is_known_where_neither_survives(name: str, died_ns: int | None) -> None:
    assert fault_record_of(result(name)).died_ns == died_ns


def test_result_becomes_a_record() -> None:
    seen = fault_record_of(result("cpr-garbage"), 305.783808)
    assert (seen.resumed_after_ms, seen.traffic_after_ms, seen.error) == (28.753, 305.784, "Unable to read from socket")
    assert seen.conditions == ("the target has to refuse",)
    assert seen.source_messages == ("two", "three", "four")


def test_fault_without_a_result_has_its_reason() -> None:
    (fault,) = faults_named("cpr-truncated")
    seen = fault_record(fault, "the update did not end")
    assert (seen.reached, seen.state, seen.error) == (None, "", "the update did not end")
