"""Findings that have one cause are one group, whatever their sentences say; the worst group is first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Difference, EquivalenceRecord, FaultRecord, Outcome, StatePair
from cprlib.report.finding_groups import FindingGroup, finding_groups
from cprlib.traffic.figures import Cause, Direction, LedgerRow, PerDirection, Period
from cprlib.update.faults import faults_named
from cprlib.verdict.judge import judge
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case

pytestmark = pytest.mark.fast
RUN = "cprlib run --qemu /q"


def groups_of(*cases: CaseEvidence) -> tuple[FindingGroup, ...]:
    policy = load_policy("default")
    return finding_groups([judge(case, policy) for case in cases], RUN)


def losing(case_id: str, count: int, period: Period, *, queues: int = 1, hop: str = "qemu") -> CaseEvidence:
    """A case that lost packets forward, all at one hop."""
    case = good_case(case_id)
    row = LedgerRow(hop, Direction.FORWARD, f"{count} ms, says {case_id}", "counted", count, Cause.UPDATE, (), period)
    parameters = replace(case.parameters, queues=queues)
    return replace(case, loss=PerDirection(count, 0), missing=(row,), parameters=parameters)


def failing(case: CaseEvidence, *names: str, text: str = "") -> CaseEvidence:
    return case.with_checks(*(Check(name, Outcome.FAIL, "x", "y", f"{text} {case.id} {name}") for name in names))


def test_good_cases_have_no_group() -> None:
    assert groups_of(good_case()) == ()


def test_losses_at_one_hop_around_one_update_are_one_cause() -> None:
    first, second = losing("a", 1, Period.BEFORE_STOP), losing("b", 3, Period.STOPPED)
    (group,) = groups_of(first, second)
    assert group.heading == "1 to 3 packets lost forward in QEMU around the update: 2 cases"
    assert group.cases == ("a", "b")
    assert group.periods == (Period.BEFORE_STOP, Period.STOPPED)
    assert group.command == "cprlib run --qemu /q tests/functional/test_update.py:UpdateTest.test_no_loss"


def test_losses_per_queue_are_seen() -> None:
    descriptors = {"a": 1, "b": 4}
    cases = [losing(name, 2 * queues, Period.STOPPED, queues=queues) for name, queues in descriptors.items()]
    group = groups_of(*cases)[0]
    assert group.title == "2 packets per queue and update lost forward in QEMU between STOP and RESUME"


@pytest.mark.parametrize(
    "other",
    [
        losing("b", 1, Period.STOPPED, hop="switch"),
        losing("b", 1, Period.LONG_AFTER),
        replace(losing("b", 1, Period.STOPPED), loss=PerDirection(0, 1)),
        failing(good_case("b"), "tap-interface"),
    ],
    ids=["another hop", "another time", "another direction", "another property"],
)
def test_other_causes_are_other_groups(other: CaseEvidence) -> None:
    assert len(groups_of(losing("a", 1, Period.STOPPED), other)) == 2


def test_packets_of_the_guest_or_the_instrument_are_no_failure() -> None:
    def also_losing(case: CaseEvidence, cause: Cause) -> CaseEvidence:
        row = LedgerRow("guest stack", Direction.FORWARD, "x", "counted", 1, cause, (), Period.STOPPED)
        lost = (case.loss.forward or 0) + 1
        return replace(case, loss=PerDirection(lost, 0), missing=(*case.missing, row))

    bad, hop = losing("a", 2, Period.STOPPED), losing("b", 5, Period.STOPPED, hop="switch")
    groups = groups_of(also_losing(bad, Cause.GUEST), also_losing(hop, Cause.INSTRUMENT))
    assert [(group.place, group.cases, group.also) for group in groups] == [
        ("qemu", ("a",), ()),
        ("switch", ("b",), ()),
    ]
    (only,) = groups_of(also_losing(good_case(), Cause.GUEST))
    assert (only.outcome, only.place) == (Outcome.INCONCLUSIVE, "guest stack")


def test_checks_of_different_faults_are_one_cause() -> None:
    faults = faults_named("target-killed-mode-set", "target-killed-loading")
    checks = [Check(f"{each.name}-vhost", Outcome.FAIL, family="vhost", fault=each.name) for each in faults]
    (group,) = groups_of(replace(good_case(), faults=tuple(map(FaultRecord, faults))).with_checks(*checks))
    assert (group.about, group.findings) == ("vhost", 2)
    assert group.title == "after a failed update the source has lost vhost"


def test_steps_of_a_check_are_one_cause() -> None:
    checks = [Check(f"device-{when}", Outcome.FAIL, family="device") for when in ("after-update", "at-the-end")]
    (group,) = groups_of(good_case().with_checks(*checks))
    assert (group.title, group.findings) == ("device fails", 2)


def test_states_are_grouped_by_the_part_that_differs() -> None:
    paths = ("kernel/link/tap0/mtu", "kernel/link/tap1/mtu", "qom/nic/mac")
    differences = tuple(Difference(path, "1", "2") for path in paths)
    record = EquivalenceRecord(StatePair.UPDATE, "update 1", 900, 0, differences, check="equivalent-after-update")
    case = failing(replace(good_case(), equivalence=(record,)), "equivalent-after-update")
    (group,) = groups_of(case)
    assert group.title == "kernel/link differs"
    assert [also.title for also in group.also] == ["qom/nic differs"]


def test_worst_cause_is_first_and_has_its_consequences() -> None:
    dead = [failing(good_case(name), "survives", "tap-interface") for name in ("a", "b")]
    elsewhere = failing(good_case("c"), "tap-interface")
    first, second = groups_of(*dead, elsewhere)
    assert (first.title, first.also) == ("QEMU or its guest died, refused or hangs", ())
    assert (second.about, second.cases) == ("tap-interface", ("a", "b", "c"))
    (only,) = groups_of(*dead)
    assert [also.title for also in only.also] == ["tap-interface fails"]


def test_update_that_fails_and_ends_its_test_is_one_cause() -> None:
    (group,) = groups_of(failing(good_case(), "survives", "update-completes"))
    assert (group.title, group.also) == ("the update does not complete", ())


def test_failures_come_before_what_is_inconclusive() -> None:
    unknown = good_case("a").with_checks(Check("survives", Outcome.INCONCLUSIVE))
    assert [group.outcome for group in groups_of(unknown, failing(good_case("b"), "z"))] == ["fail", "inconclusive"]


def test_unknown_figure_is_no_loss_of_nothing() -> None:
    groups = groups_of(replace(good_case(), loss=PerDirection(None, 0), reordered=PerDirection(0, None)))
    assert {groups[0].title, *(also.title for also in groups[0].also)} == {
        "loss forward is inconclusive",
        "reordered return is inconclusive",
    }


def test_simplest_case_is_the_example() -> None:
    (group,) = groups_of(failing(good_case("a"), "x", "y"), failing(good_case("b"), "x"))
    assert group.example == "b"
    assert group.text.strip() == "b x"
