"""Operations after an update: what an operation that fails, hangs or cannot be measured says, and for how long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.errors import Awaited, CprlibError, DeadlineExceeded, InstrumentError, QemuFailed
from cprlib.evidence.records import Outcome
from operated_guest import OperatedGuest
from operations import Operation, OperationResult, run_operations

pytestmark = pytest.mark.fast

SILENT = ["nothing after 8.0 s"]


class Guest:
    """A guest whose traffic is as a list says, one entry after each operation."""

    def __init__(self, *traffic: list[str] | CprlibError, status: int | None = None) -> None:
        self._traffic = list(traffic)
        self.silent = status is not None or any(traffic)
        machine = SimpleNamespace(output="", exit_status=lambda: status)
        machine.died = lambda doing, ended: QemuFailed(doing, f"it ended with {ended}")
        self.machine = machine


def problems(guest: OperatedGuest) -> list[str]:
    seen = cast(Guest, guest)._traffic.pop(0)
    if isinstance(seen, CprlibError):
        raise seen
    return seen


@pytest.fixture(autouse=True)
def _traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OperatedGuest, "traffic_problems", problems)


def operation(name: str, result: list[str] | CprlibError | None = None, *, applies: bool = True) -> Operation:
    def run(_guest: OperatedGuest) -> list[str]:
        if isinstance(result, CprlibError):
            raise result
        return result or []

    return Operation(name, "it works", run, lambda _guest: applies)


def run(guest: Guest, *operations: Operation) -> list[OperationResult]:
    results, answers = run_operations(cast(OperatedGuest, guest), "after-update", operations)
    assert answers == (not results[-1].unknown and not guest.silent)
    return results


def test_operations_that_do_not_apply_are_left_out() -> None:
    results = run(Guest([], []), operation("a"), operation("b", applies=False), operation("c"))
    assert [(item.check().name, item.problems) for item in results] == [("a-after-update", ()), ("c-after-update", ())]


def test_after_a_failure_the_next_operation_runs_if_the_guest_answers() -> None:
    hung = DeadlineExceeded("wait for the guest", "nothing after 10.0 s", awaited=Awaited.GUEST)
    results = run(Guest([], [], []), operation("a", ["no RARP"]), operation("b", hung), operation("c"))
    assert [item.problems[:1] for item in results[:1]] == [("no RARP",)]
    assert "nothing after 10.0 s" in results[1].problems[0]
    assert not results[2].problems
    assert not results[2].unknown


def test_nothing_is_known_after_an_operation_that_leaves_the_guest_silent() -> None:
    results = run(Guest(SILENT), operation("a"), operation("b"))
    assert results[0].problems == tuple(SILENT)
    assert results[1].unknown == "the guest's traffic failed after a"
    assert results[1].check().outcome is Outcome.INCONCLUSIVE


def test_a_silent_guest_is_not_asked_what_applies() -> None:
    def ask(_guest: OperatedGuest) -> bool:
        raise DeadlineExceeded("wait for the guest's answer", "nothing after 30.0 s", awaited=Awaited.GUEST)

    asks = Operation("b", "it works", lambda _guest: [], ask)
    results = run(Guest(SILENT), operation("a"), asks)
    assert (results[0].problems, results[1].unknown) == (tuple(SILENT), "the guest's traffic failed after a")


def test_a_qemu_that_dies_is_the_problem() -> None:
    broken = QemuFailed("run device_del", "the connection broke")
    results = run(Guest(status=-6), operation("a", broken), operation("b"))
    assert results[0].problems == ("cannot a after-update: it ended with -6",)
    assert results[1].unknown


def test_what_the_instrument_cannot_measure_is_inconclusive() -> None:
    for error in (InstrumentError("trace", "no tracefs"), DeadlineExceeded("wait for a socket", "nothing")):
        (result,) = run(Guest(error), operation("a"))
        assert not result.problems
        assert result.check().outcome is Outcome.INCONCLUSIVE


def test_a_failure_without_an_update_accuses_no_update() -> None:
    result = OperationResult(operation("hot-plug"), "after-update", ("the guest does not see the NIC",))
    failed, excused = result.check(), result.check("the guest does not see the NIC")
    assert (failed.outcome, excused.outcome) == (Outcome.FAIL, Outcome.INCONCLUSIVE)
    assert failed.message == "hot plug after update: the guest does not see the NIC"
    assert "without an update" in excused.observed
    assert OperationResult(operation("hot-plug"), "after-update").check().outcome is Outcome.PASS
