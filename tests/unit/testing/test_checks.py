"""What a test notes of a case, and what a QEMU or guest that fails in its body becomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.errors import (
    Awaited,
    CaseEnded,
    CprlibError,
    DeadlineExceeded,
    GuestFailed,
    InstrumentError,
    QemuFailed,
    UpdateFailed,
)
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Outcome, Role
from cprlib.testing.checks import CaseChecks, shown
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.judge import judge
from cprlib.verdict.policy_file import load_policy
from cprlib.words import listed

pytestmark = pytest.mark.fast

FAILURES = [
    QemuFailed("ask QEMU", "it ended with signal 6", details="qemu: Assertion `x' failed"),
    UpdateFailed("live-update the guest", "could not load the state"),
    GuestFailed("boot the guest", "its kernel died"),
    DeadlineExceeded("wait for the guest to answer", "nothing after 8.0 s", awaited=Awaited.GUEST),
    DeadlineExceeded("wait for the target", "nothing after 8.0 s", awaited=Awaited.QEMU),
]


def case(folder: Path, role: Role = Role.CHECKS, **fields: object) -> CaseChecks:
    evidence = replace(CaseEvidence("x", Mechanism.CPR, role), **fields)  # type: ignore[arg-type]
    return CaseChecks(folder, evidence)


def only_check(checks: CaseChecks) -> Check:
    (check,) = checks.evidence.checks
    return check


def test_equal_values_pass_and_others_are_shown(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    checks.expect_equal("same", ("up tap2",), ("up tap2",), "another script ran")
    checks.expect_equal("other", (), ("up tap2",), "another script ran")
    assert [check.outcome for check in checks.evidence.checks] == [Outcome.PASS, Outcome.FAIL]
    assert checks.evidence.checks[0].message == ""
    assert checks.evidence.checks[1].message == "another script ran: expected up tap2, observed none"


def test_a_failed_check_is_written_at_once(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    checks.expect("ends", True, "x", "x")
    assert list(tmp_path.iterdir()) == []
    checks.expect("mac-table", False, "same", "other")
    assert CaseEvidence.read(tmp_path).checks == checks.evidence.checks
    with checks.expect_survival():
        raise FAILURES[0]
    assert CaseEvidence.read(tmp_path).checks == checks.evidence.checks


def test_problems_fail_and_are_listed(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    checks.expect_empty("good", [], "no descriptor left", "descriptors are left")
    checks.expect_empty("bad", range(9), "no descriptor left", "descriptors are left")
    assert checks.evidence.checks[0] == Check("good", Outcome.PASS, "no descriptor left", "no problem")
    assert checks.evidence.checks[1].message == "descriptors are left: 0; 1; 2; 3; 4; 5; and 3 more"


def test_property_of_a_check_is_kept_beside_its_step(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    checks.expect("device", True, "x", "x", when="after-update")
    checks.expect("first-update", True, "x", "x", family="update-completes")
    checks.expect("ends", True, "x", "x")
    found = [(check.name, check.family) for check in checks.evidence.checks]
    assert found == [("device-after-update", "device"), ("first-update", "update-completes"), ("ends", "")]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_qemu_or_guest_that_fails_is_a_failed_check(tmp_path: Path, error: CprlibError) -> None:
    checks = case(tmp_path, updates=1)
    with checks.expect_survival():
        raise error
    check = only_check(checks)
    assert (check.name, check.outcome) == ("survives", Outcome.FAIL)
    assert check.message.startswith(error.one_line())


def test_the_last_words_of_a_qemu_are_in_the_message(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    said = "2026-01-01T00:00:00.000000Z qemu: virtio-net: could not disable queue\n"
    (tmp_path / "stderr-target.log").write_text(f"something else\n{said}")
    with checks.expect_survival():
        raise QemuFailed("ask QEMU", "it ended with signal 6")
    assert only_check(checks).message.endswith(": qemu: virtio-net: could not disable queue")


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_control_step_makes_it_inconclusive(tmp_path: Path, error: CprlibError) -> None:
    checks = case(tmp_path)
    with checks.expect_survival(), checks.control_step():
        raise error
    assert only_check(checks).outcome == Outcome.INCONCLUSIVE


def test_a_step_that_examines_qemu_fails_without_an_update(tmp_path: Path) -> None:
    checks = case(tmp_path)
    with checks.expect_survival(), checks.qemu_step():
        with checks.control_step():
            pass
        raise FAILURES[0]
    assert only_check(checks).outcome == Outcome.FAIL


def test_a_check_that_fails_before_an_update_accuses_no_qemu(tmp_path: Path) -> None:
    checks = case(tmp_path)
    checks.expect("tcp", False, "all bytes", "none", "TCP stands still", when="before-update")
    check = only_check(checks)
    assert (check.name, check.outcome) == ("tcp-before-update", Outcome.INCONCLUSIVE)
    assert check.message == "not caused by an update, since none has begun: TCP stands still"


def test_a_property_that_failed_before_an_update_stays_inconclusive_and_others_fail(tmp_path: Path) -> None:
    checks = case(tmp_path)
    checks.expect_equal("tcp", 0, 9, when="before-update")
    checks.expect_equal("frames", 9, 9, when="before-update")
    checks.evidence = replace(checks.evidence, updates=1)
    checks.expect_equal("tcp", 0, 9, "bytes", when="after-update")
    checks.expect_equal("frames", 0, 9, when="after-update")
    outcomes = {check.name: check.outcome for check in checks.evidence.checks}
    assert outcomes == {
        "tcp-before-update": Outcome.INCONCLUSIVE,
        "frames-before-update": Outcome.PASS,
        "tcp-after-update": Outcome.INCONCLUSIVE,
        "frames-after-update": Outcome.FAIL,
    }
    assert "since tcp-before-update failed before it: bytes" in checks.evidence.checks[2].message


def test_a_check_of_a_step_that_examines_qemu_fails_without_an_update(tmp_path: Path) -> None:
    checks = case(tmp_path)
    with checks.qemu_step():
        checks.expect("no-descriptor-left", False, "none", "tap 9")
    assert only_check(checks).outcome == Outcome.FAIL


def test_a_test_of_the_instrument_accuses_no_qemu(tmp_path: Path) -> None:
    checks = case(tmp_path)
    with checks.expect_survival(), checks.control_step():
        checks.expect_empty("loss-leaving-the-station", ["1 placed at qemu"], "30 lost at the station")
    assert [check.outcome for check in checks.evidence.checks] == [Outcome.INCONCLUSIVE, Outcome.PASS]


class Fallen(CaseChecks):
    """The checks of a case whose source has died."""

    def qemu_failure(self) -> str:
        return "the source ended with killed by SIGABRT: qemu: assertion failed"


@pytest.mark.parametrize(
    "error",
    [
        InstrumentError("read the descriptors of process 7", "No such file or directory"),
        DeadlineExceeded("wait for traffic to flow", "nothing after 8.0 s"),
        ProcessLookupError("no such process"),
        GuestFailed("ask the guest agent", "its channel was closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_was_noticed_of_a_dead_qemu_it_is_the_cause(tmp_path: Path, error: Exception) -> None:
    checks = Fallen(tmp_path, replace(CaseEvidence("x", Mechanism.CPR, Role.CHECKS), updates=1))
    with checks.expect_survival():
        raise error
    check = only_check(checks)
    assert check.outcome == Outcome.FAIL
    assert check.message.startswith("the source ended with killed by SIGABRT: qemu: assertion failed; seen as: ")


def test_a_qemu_that_the_kernel_killed_is_not_accused(tmp_path: Path) -> None:
    class Killed(CaseChecks):
        def external_cause(self) -> str:
            return "the source was killed from outside by SIGKILL"

    checks = Killed(tmp_path, replace(CaseEvidence("x", Mechanism.CPR, Role.CHECKS), updates=1))
    with checks.expect_survival():
        raise QemuFailed("run query-status on the source", "the connection broke")
    assert only_check(checks).outcome == Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("mechanism", "outcome"), [(Mechanism.CPR, Outcome.FAIL), (Mechanism.LINK_SWITCH, Outcome.INCONCLUSIVE)]
)
def test_a_qemu_that_dies_before_an_update_is_accused_where_the_option_is_not_stock(
    tmp_path: Path, mechanism: Mechanism, outcome: Outcome
) -> None:
    checks = Fallen(tmp_path, CaseEvidence("x", mechanism, Role.UPDATE))
    with checks.expect_survival(), checks.control_step():
        raise FAILURES[0]
    assert only_check(checks).outcome == outcome


@pytest.mark.parametrize(
    ("control", "without_nic", "outcome"),
    [
        ("", False, Outcome.FAIL),
        ("without cpr=on: no", False, Outcome.INCONCLUSIVE),
        ("without cpr=on: no", True, Outcome.FAIL),
    ],
)
def test_a_guest_that_boots_without_the_option_or_a_nic_only_accuses_qemu(
    tmp_path: Path, control: str, without_nic: bool, outcome: Outcome
) -> None:
    checks = case(tmp_path)
    checks.add_boot_failure(FAILURES[0], control, starts_without_nic=without_nic)
    check = only_check(checks)
    assert (check.outcome, "assertion" in check.message.lower()) == (outcome, True)


def test_an_error_of_the_harness_is_no_finding_while_qemu_is_well(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    with pytest.raises(InstrumentError), checks.expect_survival():
        raise InstrumentError("read the kernel's trace", "there is no tracefs")
    assert not checks.evidence.checks


def test_after_an_update_no_step_is_a_control_step(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    with checks.expect_survival(), checks.control_step():
        raise FAILURES[0]
    assert only_check(checks).outcome == Outcome.FAIL


def test_a_control_run_accuses_no_qemu(tmp_path: Path) -> None:
    checks = case(tmp_path, Role.CONTROL_RUN)
    with checks.expect_survival():
        raise FAILURES[0]
    assert only_check(checks).outcome == Outcome.INCONCLUSIVE


def test_a_deadline_of_the_harness_is_no_finding(tmp_path: Path) -> None:
    checks = case(tmp_path)
    with pytest.raises(DeadlineExceeded), checks.expect_survival():
        raise DeadlineExceeded("wait for packets to be sent", "nothing after 8.0 s")
    assert not checks.evidence.checks


def test_a_body_without_failure_passes(tmp_path: Path) -> None:
    checks = case(tmp_path)
    with checks.expect_survival():
        pass
    assert only_check(checks).outcome == Outcome.PASS


def test_notes_are_parameters_of_the_report(tmp_path: Path) -> None:
    checks = case(tmp_path)
    checks.note("highest rate", 8000.0)
    checks.note("machine", "pc")
    assert checks.evidence.parameters.more == {"highest rate": 8000.0, "machine": "pc"}


def test_values_are_shown_as_people_write_them() -> None:
    assert shown(()) == "none"
    assert shown([1, 2]) == "1, 2"
    assert shown({"source": 0, "target": [1, 2]}) == "source 0, target 1, 2"
    assert shown({}) == "none"
    assert listed([]) == ""


def test_checks_of_a_fault_have_its_name(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    with checks.after_fault("kill-late"):
        checks.expect("ends", True, "x", "x")
        checks.expect("vhost", True, "x", "x", when="at-the-end")
        checks.inconclusive("survived", "x", "y")
    checks.expect("answers", True, "x", "x")
    found = [(check.name, check.family, check.fault) for check in checks.evidence.checks]
    assert found == [
        ("kill-late-ends", "ends", "kill-late"),
        ("kill-late-vhost-at-the-end", "vhost", "kill-late"),
        ("kill-late-survived", "survived", "kill-late"),
        ("answers", "", ""),
    ]


def test_a_check_that_cannot_be_made_is_for_the_policy_to_decide(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    checks.expect("works", True, "yes", "yes")
    checks.skip_check("vm-cannot-be-stopped", "the update is refused", "this QEMU has no blkdebug")
    verdicts = [judge(checks.evidence, load_policy(name)).outcome for name in ("default", "strict")]
    assert verdicts == [Outcome.PASS, Outcome.FAIL]


def test_a_case_ends_at_the_failed_check_that_its_run_asked_for(tmp_path: Path) -> None:
    evidence = replace(CaseEvidence("x", Mechanism.CPR, Role.CHECKS), updates=1)
    checks = CaseChecks(tmp_path, evidence, stop_at="^flags: .*O_NONBLOCK")
    checks.expect("same-files", False, "2", "1")
    checks.expect_equal("flags", "O_NONBLOCK", "O_NONBLOCK")
    checks.inconclusive("flags", "O_NONBLOCK", "no O_NONBLOCK was read")
    with pytest.raises(CaseEnded), checks.expect_survival():
        checks.expect_equal("flags", "none", "O_NONBLOCK")
    assert [check.outcome for check in checks.evidence.checks] == [
        Outcome.FAIL,
        Outcome.PASS,
        Outcome.INCONCLUSIVE,
        Outcome.FAIL,
    ]


def test_a_condition_of_the_test_that_does_not_hold_is_inconclusive(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    assert checks.require("ring-full", True, "more than 256 wait", "300 wait")
    assert not checks.require("ring-full-again", False, "more than 256 wait", "12 wait")
    good, bad = checks.evidence.checks
    assert (good.outcome, bad.outcome, bad.observed) == (Outcome.PASS, Outcome.INCONCLUSIVE, "12 wait")


def test_complaint_at_boot_is_no_effect_of_an_update(tmp_path: Path) -> None:
    checks = case(tmp_path, updates=1)
    steering, queue = "qemu: Issue while setting TUNSETSTEERINGEBPF", "qemu: could not disable queue"
    (tmp_path / "stderr-source.log").write_text(f"2026-11-29T09:20:35Z {steering}\n")
    checks.note_complaints_at_boot()
    checks.expect_no_nic_error()
    (tmp_path / "stderr-target.log").write_text(f"{steering}\n{queue}\n")
    checks.expect_no_nic_error()
    outcomes = [(check.outcome, check.message) for check in checks.evidence.checks]
    assert outcomes == [(Outcome.PASS, ""), (Outcome.FAIL, queue)]
