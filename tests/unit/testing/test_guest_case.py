"""Checks of an update that has a label, and the messages and events of one that failed."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from cprlib.errors import CaseEnded, QemuFailed, UpdateFailed
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Outcome, Role
from cprlib.evidence.update_checks import fault_record_of
from cprlib.linux.descriptors import Pairing
from cprlib.process import kill_group, spawn
from cprlib.testing.guest_case import GuestCase, labelled
from cprlib.testing.watch import FrameWatch
from cprlib.update.events import Event, Step, Who
from cprlib.update.faults import Action, faults_named
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.mechanism import Mechanism, Mode
from cprlib.update.results import UpdateResult
from cprlib.update.running_guest import RunningGuest
from cprlib.verdict.judge import judge
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.test_update_checks import GOOD, NETDEVS, SOURCE, TARGET, fault_result

pytestmark = pytest.mark.fast


def test_checks_of_a_labelled_update_keep_their_property() -> None:
    known, other = Check("descriptors-same-file", Outcome.PASS), Check("resumed-once", Outcome.PASS)
    assert (labelled(known, "first").name, labelled(known, "first").family) == (
        "first-descriptors-same-file",
        known.name,
    )
    assert (labelled(other, "first").name, labelled(other, "first").family) == ("first-resumed-once", other.name)


def fake_machine(folder: Path, name: str, process: subprocess.Popen[str] | None = None) -> SimpleNamespace:
    """A QEMU; its process runs when None."""
    return SimpleNamespace(
        name=name,
        settings=SimpleNamespace(netdevs=(), qemu=None),
        files=SimpleNamespace(console=folder / f"console-{name}.log"),
        messages="",
        mark_messages=lambda: 0,
        messages_since=lambda _: "",
        process=process,
        exit_status=lambda: process.poll() if process else None,
        failure=lambda **_: "",
        killing_signal=lambda: process and {-9: "SIGKILL", -15: "SIGTERM"}.get(process.poll() or 0, ""),
        incoming=name != "source",
    )


def guest_case(folder: Path, update: Callable[..., object], *others: SimpleNamespace, stop_at: str = "") -> GuestCase:
    """A case whose guest was updated before.

    :param update: carries out the next update.
    :param others: further QEMUs of the guest.
    """
    source = fake_machine(folder, "source")
    case = GuestCase(folder, CaseEvidence("x", Mechanism.CPR, Role.CHECKS, updates=1), stop_at)
    guest = SimpleNamespace(
        machine=source,
        machines=(source, *others),
        live_update=update,
        latest_update=None,
        updates=[],
        mode=Mode.CPR_TRANSFER,
    )
    case._guest = cast("RunningGuest", guest)
    case._frames = cast("FrameWatch", SimpleNamespace(note_nics=lambda: None))
    case.compares_states = False
    return case


@pytest.mark.parametrize(
    ("kill", "outcome"),
    [
        (subprocess.Popen.kill, Outcome.INCONCLUSIVE),
        (subprocess.Popen.terminate, Outcome.INCONCLUSIVE),
        (kill_group, Outcome.FAIL),
    ],
)
def test_an_update_whose_target_the_kernel_killed_accuses_no_qemu(
    tmp_path: Path, kill: Callable[[subprocess.Popen[str]], None], outcome: Outcome
) -> None:
    def fail(*_: object) -> None:
        kill(process)
        process.wait()
        raise UpdateFailed("live-update the guest", "the target ended")

    with spawn(["sleep", "60"], purpose="sleep") as process:
        case = guest_case(tmp_path, fail, fake_machine(tmp_path, "target", process))
        with case.expect_survival():
            case.live_update()
    found = [(check.name, check.family, check.outcome) for check in case.evidence.checks]
    assert found == [("update-completes", "update-completes", outcome), ("survives", "", outcome)]


def test_a_failed_update_has_the_messages_of_both_qemus(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise UpdateFailed("live-update the guest", "it failed", source_said="kvm: a", target_said="kvm: b")

    case = guest_case(tmp_path, fail)
    events = (Event(Step.MIGRATE, 1, Who.HARNESS), Event(Step.STOP, 2, Who.SOURCE))
    update = SimpleNamespace(timeline=events, mode=Mode.CPR_TRANSFER, expects_failure=False)
    case.guest.latest_update = cast(LiveUpdate, update)
    with pytest.raises(UpdateFailed):
        case.live_update(label="first")
    assert case.evidence.timeline == events
    (check,) = case.evidence.checks
    assert (check.name, check.outcome, check.family) == ("first-update", Outcome.FAIL, "update-completes")
    assert "(the source said: kvm: a; the target said: kvm: b)" in check.message


@pytest.mark.parametrize("refused", [False, True])
def test_an_update_that_may_be_refused_is_watched_as_any_other(tmp_path: Path, refused: bool) -> None:
    """A refusal is for the test to judge; an update that works has all checks of one under traffic."""

    def update(*_: object) -> UpdateResult:
        if refused:
            raise UpdateFailed("live-update the guest", "unknown subsection")
        return GOOD

    case, seen = guest_case(tmp_path, update), list[str]()
    watch = SimpleNamespace(before_update=lambda: seen.append("before"), updates=list[UpdateResult]())
    case._watch = cast("Any", watch)
    with pytest.raises(UpdateFailed) if refused else contextlib.nullcontext():
        case.live_update(may_be_refused=True)
    assert (seen, watch.updates) == (["before"], [] if refused else [GOOD])
    failed = {check.name for check in case.evidence.checks if check.outcome is Outcome.FAIL}
    assert "update-completes" not in failed


@pytest.mark.parametrize("refused", [True, False])
def test_the_end_of_a_target_that_has_refused_an_update_is_no_failure_of_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    target = fake_machine(tmp_path, "target")
    target.failure = lambda *, may_end: "" if may_end else "the target ended"
    case = guest_case(tmp_path, lambda *_: None, target)
    guest = RunningGuest(
        cast(Any, None), Mechanism.CPR, tmp_path, contextlib.ExitStack(), cast(Any, target), cast(Any, None)
    )

    def plan(*_: object) -> LiveUpdate:
        guest.latest_update = update
        return update

    error = UpdateFailed("live-update the guest", "it failed") if refused else QemuFailed("live-update", "it died")
    update = cast(LiveUpdate, Mock(expects_failure=False, failed=False, perform=Mock(side_effect=error)))
    monkeypatch.setattr(RunningGuest, "plan_update", plan)
    with pytest.raises(type(error)):
        guest.live_update()
    case.guest.latest_update = guest.latest_update
    assert case.qemu_failure() == ("" if refused else "the target ended")


def test_a_failed_exec_has_no_event_of_a_target(tmp_path: Path) -> None:
    case = guest_case(tmp_path, lambda *_: None)
    events = (Event(Step.STOP, 2, Who.SOURCE), Event(Step.RESUME, 3, Who.TARGET))
    case.guest.latest_update = cast(LiveUpdate, SimpleNamespace(timeline=events, mode=Mode.CPR_EXEC))
    case.add_events()
    assert case.evidence.timeline == events[:1]


@pytest.mark.parametrize(
    ("arguments", "reads"),
    [({}, 1), ({"label": "x"}, 1), ({"label": "x", "hooks": [UpdateHook()]}, 0), ({"hooks": [UpdateHook()]}, 1)],
    ids=["plain", "labelled", "labelled with a hook", "with a hook"],
)
def test_states_are_compared_unless_a_labelled_update_changes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], reads: int
) -> None:
    def fail(*_: object) -> None:
        raise UpdateFailed("live-update the guest", "it failed")

    seen: list[object] = []
    monkeypatch.setattr("cprlib.testing.guest_case.read_compared", seen.append)
    case = guest_case(tmp_path, fail)
    case.compares_states = True
    with pytest.raises(UpdateFailed):
        case.live_update(**arguments)
    assert len(seen) == reads


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("2026-11-29T17:00:01.5Z kvm: no AVX", Outcome.PASS),
        ("no AVX", Outcome.PASS),
        ("2026-11-29T17:00:01.5Z kvm: no vhost", Outcome.FAIL),
    ],
    ids=["as the source", "in a QMP command", "something new"],
)
def test_an_update_makes_no_qemu_say_anything_new(tmp_path: Path, said: str, outcome: Outcome) -> None:
    target = fake_machine(tmp_path, "target")
    target.messages = said

    def update(*_: object) -> UpdateResult:
        case.guest.machine = cast("Any", target)
        return GOOD

    case = guest_case(tmp_path, update)
    cast("Any", case.guest.machine).messages = "2026-11-29T17:00:00.0Z kvm: no AVX"
    case.live_update()
    found = {check.name: check for check in case.evidence.checks}
    assert found["no-new-message"].outcome is outcome


@pytest.mark.parametrize(
    ("changes", "checks"),
    [
        ({}, {"again-source-runs": Outcome.PASS}),
        ({"state_after": "paused"}, {"again-source-runs": Outcome.FAIL}),
        (
            {"not_reached": "nothing after 30 s", "migration": "completed"},
            {"again-reached": Outcome.INCONCLUSIVE},
        ),
        (
            {"not_reached": "it ended before", "migration": "failed"},
            {"again-reached": Outcome.FAIL, "again-source-runs": Outcome.PASS},
        ),
    ],
    ids=["as expected", "not resumed", "too slow", "failed by itself"],
)
def test_a_fault_is_recorded_with_its_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], checks: dict[str, Outcome]
) -> None:
    seen = replace(fault_result("cpr-garbage"), **changes)  # type: ignore[arg-type]
    monkeypatch.setattr("cprlib.testing.guest_case.inject_fault", lambda _, fault, __: replace(seen, fault=fault))
    case = guest_case(tmp_path, lambda: None)
    case.inject_fault(*faults_named("cpr-garbage"), name="again")
    assert {check.name: check.outcome for check in case.evidence.checks} == checks
    (record,) = case.evidence.faults
    assert (record.fault.name, record.fault.action) == ("again", Action.GARBAGE_CPR)
    assert record.reached == ("not_reached" not in changes)


def test_a_fault_whose_update_fails_is_recorded_with_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UpdateFailed("update the guest", "it failed")

    monkeypatch.setattr("cprlib.testing.guest_case.inject_fault", fail)
    case, events = guest_case(tmp_path, lambda: None), (Event(Step.MIGRATE, 1, Who.HARNESS),)
    case.guest.latest_update = cast(LiveUpdate, SimpleNamespace(timeline=events, mode=Mode.CPR_TRANSFER))
    with pytest.raises(UpdateFailed):
        case.inject_fault(*faults_named("no-fault"), name="again")
    assert [(item.fault.name, item.error) for item in case.evidence.faults] == [
        ("again", "cannot update the guest: it failed")
    ]
    case.add_fault(case.evidence.faults[0])
    assert case.evidence.timeline == events


def test_a_source_that_need_not_survive_has_no_check_of_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = replace(fault_result("no-fault"), state_after="running", migration="completed")
    monkeypatch.setattr("cprlib.testing.guest_case.inject_fault", lambda *_: seen)
    case = guest_case(tmp_path, lambda: None)
    case.inject_fault(seen.fault)
    assert (case.evidence.checks, [item.fault.name for item in case.evidence.faults]) == ((), ["no-fault"])


def test_a_source_gets_time_to_run_again(tmp_path: Path) -> None:
    """Its run state follows the end of the migration a moment later."""
    case, states = guest_case(tmp_path, lambda: None), ["finish-migrate"]
    machine = cast("Any", case.guest.machine)
    machine.status, machine.wait_status = (lambda: states[-1]), (lambda state, **_: states.append(state))
    assert case.resumed_state() == "running"


def test_a_case_ends_also_at_a_failed_check_of_an_update(tmp_path: Path) -> None:
    reopened = replace(GOOD, pairings=(Pairing(SOURCE[0], None), Pairing(None, TARGET[0]), GOOD.pairings[1]))
    case = guest_case(tmp_path, lambda: None, stop_at="^first-descriptors-same-file: ")
    with pytest.raises(CaseEnded, match="it stops at the failed check first-descriptors-same-file"):
        case.add_update(reopened, NETDEVS, label="first")
    assert case.evidence.updates == 2


@pytest.mark.parametrize("watched", [False, True])
def test_what_was_found_is_kept_when_the_lab_dies(tmp_path: Path, watched: bool) -> None:
    """It does not pass, whatever was found; nothing is written while packets flow."""
    case = guest_case(tmp_path, lambda: None)
    case._watch = cast("Any", object()) if watched else None
    case.expect("ends", True, "x", "x")
    case.add_fault(fault_record_of(fault_result("cpr-garbage")))
    if watched:
        assert list(tmp_path.iterdir()) == []
        return
    written = CaseEvidence.read(tmp_path)
    assert (written.checks[:-1], written.faults) == (case.evidence.checks, case.evidence.faults)
    assert judge(written, load_policy("default")).outcome is Outcome.INCONCLUSIVE
    case.add_update(GOOD, NETDEVS)
    assert CaseEvidence.read(tmp_path).checks[:-1] == case.evidence.checks


def test_the_update_of_a_case_is_one_of_the_guest_s(tmp_path: Path) -> None:
    """Also with a label, by which messages of before are left out: the number of an update is that in this list."""

    def update(*_: object) -> UpdateResult:
        seen = replace(GOOD, source_messages="of before")
        case.guest.updates.append(seen)
        return seen

    case = guest_case(tmp_path, update)
    case.evidence = replace(case.evidence, mechanism=Mechanism.LINK_SWITCH)
    assert case.live_update(label="first") in case.guest.updates
