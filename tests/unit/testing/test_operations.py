"""Operations after an update: what an operation that fails, hangs or cannot be measured says, and for how long."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import nic_moments
import operations as module
import run_state_moments
from cprlib.deadline import Deadline
from cprlib.errors import Awaited, CaseEnded, CprlibError, DeadlineExceeded, InstrumentError, QemuFailed
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome, Role
from cprlib.qemu.nic_state import CTRL_RX
from cprlib.testing.checks import CaseChecks
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.events import Step
from cprlib.update.mechanism import Mechanism
from operated_guest import OperatedGuest
from operations import CheckedOperations, Operation, OperationResult, run_operations

pytestmark = pytest.mark.fast

SILENT = ["nothing after 8.0 s"]


class Guest:
    """A guest whose traffic is as a list says, one entry after each operation."""

    def __init__(self, *traffic: list[str] | CprlibError, status: int | None = None) -> None:
        self._traffic = list(traffic)
        self.silent = status is not None or any(traffic)
        machine = SimpleNamespace(output="", exit_status=lambda: status, settings=SimpleNamespace(netdevs=["net0"]))
        machine.died = lambda doing, ended: QemuFailed(doing, f"it ended with {ended}")
        self.machine = machine
        self.offloads = ["on"] * 50  # of the tap, each time it is looked at

    def tap_facts(self) -> dict[str, str]:
        return {"tso": self.offloads.pop(0)}


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


@pytest.fixture
def case(tmp_path: Path) -> CaseChecks:
    return CaseChecks(tmp_path, CaseEvidence("x", Mechanism.CPR, Role.CHECKS, updates=1))


def checked(case: CaseChecks, *operations: Operation, guest: Guest | None = None) -> CheckedOperations:
    guest = guest or Guest([], [], [], [])
    guest.machine.pid = os.getpid()
    return CheckedOperations(cast(MeasuredCase, case), cast(OperatedGuest, guest), operations)


def test_operations_that_do_not_apply_are_left_out_or_skipped(case: CaseChecks) -> None:
    lacking = replace(operation("c", applies=False), missing="the NIC has no rings")
    optional = (replace(operation(name, applies=name == "d"), no_feature="VLANs") for name in "de")
    operations = (operation("a"), operation("b", applies=False), lacking, *optional)
    runs = checked(case, *operations)
    assert runs.excluded == {"b", "c", "e"}
    assert case.evidence.parameters.more == {"operation e": "not tested: the guest's NIC has no VLANs"}
    runs.run("after-update", operations)
    runs.add_checks()
    assert {check.name: check.outcome for check in case.evidence.checks} == {
        "c-after-update": Outcome.SKIP,
        "answers-after-update": Outcome.PASS,
        "a-after-update": Outcome.PASS,
        "d-after-update": Outcome.PASS,
        "descriptors-after-update": Outcome.PASS,
    }


def test_a_case_ends_at_the_operation_at_which_its_run_stops(tmp_path: Path) -> None:
    evidence = CaseEvidence("x", Mechanism.CPR, Role.CHECKS, updates=1)
    operations = (operation("a", ["other"]), operation("b", ["no RARP"]), operation("c"))
    runs = checked(CaseChecks(tmp_path, evidence, stop_at="^b-after-update: .*no RARP"), *operations)
    with pytest.raises(CaseEnded, match="failed check b-after-update"):
        runs.run("after-update", operations)
    assert [item.operation.name for item in runs._results] == ["answers", "a", "b"]


def test_operations_after_one_that_leaves_the_guest_silent_have_a_result(case: CaseChecks) -> None:
    operations = (operation("a"), operation("b"))
    runs = checked(case, *operations, guest=Guest([], SILENT))
    assert not runs.run("after-update", operations)
    unknown = {item.operation.name: item.unknown for item in runs._results}
    silent = "the guest's traffic failed after a"
    assert unknown == {"answers": "", "a": "", "b": silent, "descriptors": silent}


def test_an_operation_that_no_longer_applies_is_run(case: CaseChecks) -> None:
    """An update that takes a feature away takes the check of the feature, too, if the guest is asked afterwards."""
    answers = iter([True, False])
    lost = Operation("rings", "the rings are reset", lambda _guest: ["EOPNOTSUPP"], lambda _guest: next(answers))
    runs = checked(case, lost)
    runs.run("after-update", [lost])
    assert ("rings", ("EOPNOTSUPP",)) in [(item.operation.name, item.problems) for item in runs._results]


def test_a_tap_that_an_operation_leaves_changed_is_a_problem() -> None:
    guest = Guest([], [])
    guest.offloads = ["on", "off", "off", "off"]
    results = run(guest, operation("a"), operation("b"))
    assert [item.problems for item in results] == [("its tap: tso was on, is off",), ()]


def test_after_a_failure_the_next_operation_runs_if_the_guest_answers() -> None:
    hung = DeadlineExceeded("wait for the guest", "nothing after 10.0 s", awaited=Awaited.GUEST)
    results = run(Guest([], [], []), operation("a", ["no RARP"]), operation("b", hung), operation("c"))
    assert [item.problems[:1] for item in results[:1]] == [("no RARP",)]
    assert "nothing after 10.0 s" in results[1].problems[0]
    assert not results[2].problems
    assert not results[2].unknown


def test_a_netdev_that_cannot_be_added_again_is_the_problem() -> None:
    guest = Guest([])
    refused = QemuFailed("add net0", "invalid for the target of a migration")

    def replug(_guest: OperatedGuest) -> list[str]:
        guest.machine.settings.netdevs.clear()
        raise refused

    guest.silent = True
    failed, _ = run(guest, Operation("hot-plug", "it works", replug), operation("next"))
    assert failed.problems == (refused.one_line(),)


def test_nothing_is_known_after_an_operation_that_leaves_the_guest_silent() -> None:
    results = run(Guest(SILENT), operation("a"), operation("b"))
    assert results[0].problems == tuple(SILENT)
    assert results[1].unknown == "the guest's traffic failed after a"
    assert results[1].check().outcome is Outcome.INCONCLUSIVE


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


def test_an_answer_that_comes_late_while_there_must_be_none_is_seen() -> None:
    """The other NICs answer first: a guest that is busy answers then, too."""
    late = ["answer"]
    probes = SimpleNamespace(send=lambda: 1, count_missing=lambda _deadline: len(late))
    guest = SimpleNamespace(probes=[probes], wait_others=late.clear)
    found = OperatedGuest.answers_while(cast(OperatedGuest, guest), "the interface was down")
    assert found == ["1 packets were answered while the interface was down"]


@pytest.mark.parametrize("ran_s", [0.5, 2.5])
def test_an_alarm_that_may_have_come_in_the_source_shows_nothing(ran_s: float) -> None:
    updates: list[SimpleNamespace] = []

    def live_update(_label: str, before_migrate: Callable[[], None]) -> None:
        before_migrate()
        updates.append(SimpleNamespace(times_ns={Step.STOP: time.time_ns() + int(ran_s * 1e9)}))

    files = {run_state_moments.ALARM: SimpleNamespace(text="\n")}
    guest = SimpleNamespace(
        updater=SimpleNamespace(live_update=live_update),
        running_guest=SimpleNamespace(updates=updates),
        agent=SimpleNamespace(set_alarm=lambda _: None, files=lambda _: files),
    )
    late = pytest.raises(InstrumentError, match="still ran the guest for")
    with late if ran_s > 1 else contextlib.nullcontext():
        assert run_state_moments.alarm_set(cast(OperatedGuest, guest)) == []


@pytest.mark.parametrize(
    ("sends", "filters", "problems"),
    [(True, True, []), (False, True, ["QEMU sent no event NIC_RX_FILTER_CHANGED"]), (False, False, [])],
)
def test_a_guest_may_change_its_receive_filter_later(sends: bool, filters: bool, problems: list[str]) -> None:
    """Linux sends the commands from a work item, after the interface is up."""
    events: list[SimpleNamespace] = []

    def wait_event(name: str, *, deadline: Deadline) -> None:
        if not sends:
            raise deadline.exceeded()
        events.append(SimpleNamespace(name=name))

    guest = SimpleNamespace(
        updater=SimpleNamespace(wait_announced=lambda: None, live_update=lambda _label: None),
        agent=SimpleNamespace(set_interface=lambda **_: None),
        answers_while=lambda _what: [],
        wait_nic=lambda: None,
        nics=lambda: [SimpleNamespace(agreed_on=lambda feature: filters and feature == CTRL_RX)],
        machine=SimpleNamespace(qmp=SimpleNamespace(events=events, wait_event=wait_event)),
    )
    assert nic_moments.interface_down(cast(OperatedGuest, guest)) == problems


def test_each_press_of_the_power_button_has_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state_moments, "EVENT_S", 0.5)
    seen_at: list[float] = [0.0]

    def execute(command: str) -> None:
        if command == "system_powerdown":
            seen_at.append(time.monotonic() + 0.35)  # the guest is busy

    def files(paths: list[str]) -> dict[str, SimpleNamespace]:
        presses = sum(at <= time.monotonic() for at in seen_at)
        return {paths[0]: SimpleNamespace(text=f"{presses} enabled")}

    guest = SimpleNamespace(
        updater=SimpleNamespace(live_update=lambda _label: None),
        agent=SimpleNamespace(files=files),
        machine=SimpleNamespace(qmp=SimpleNamespace(execute=execute)),
    )
    assert run_state_moments.power_button(cast(OperatedGuest, guest)) == []


def test_a_target_has_announced_its_guest_before_it_is_ended_for_the_control(
    case: CaseChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rounds of RARP end with it. An operation that fails without an update too is inconclusive, not a failure.

    The control guest has the path of the case's.
    """
    done, path = list[str](), list[object]()
    frames = SimpleNamespace(wait_qemu_announced=lambda: done.append("announced"))
    first = SimpleNamespace(machine=SimpleNamespace(process=None), mechanism=Mechanism.CPR)
    for name, value in {
        "frames": frames,
        "guest": first,
        "parameters": SimpleNamespace(queue_length=1, path_mtu=9000),
    }.items():
        setattr(case, name, value)
    monkeypatch.setattr(module, "kill_group", lambda _: done.append("killed"))

    def no_guest(*given: object) -> None:
        path.extend(given[-2:])
        raise QemuFailed("start a guest", "it died")

    monkeypatch.setattr(module, "running_guest", no_guest)
    broken = operation("a", ["no RARP"])
    runs = checked(case, broken)
    runs.run("after-update", [broken])
    runs.add_checks()
    assert done == ["announced", "killed"]
    assert path == [1, 9000]
    assert {check.outcome for check in case.evidence.checks} == {Outcome.PASS, Outcome.INCONCLUSIVE}
