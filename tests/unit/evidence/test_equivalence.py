"""Comparison of two states, and the differences that are allowed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cprlib.errors import InstrumentError, QmpRefused, UsageError
from cprlib.evidence.equivalence import (
    LONGEST_VALUE,
    AllowedDifference,
    Snapshot,
    allowed_differences,
    compare,
    equivalence_check,
    take_snapshot,
)
from cprlib.evidence.records import Difference, EquivalenceRecord, Outcome, StatePair
from cprlib.update.mechanism import Mechanism

pytestmark = pytest.mark.fast

BEFORE = {"qom/machine/nic/mac": "52:54", "process/threads/CPU 0": "1", "kernel/tap0/qdisc": "noqueue"}


def compared(
    after: dict[str, str], *allowed: AllowedDifference, before: dict[str, str] | None = None
) -> EquivalenceRecord:
    return compare(
        Snapshot(before or BEFORE), Snapshot(after), StatePair.UPDATE, Mechanism.CPR, allowed, subject="update 2"
    )


def test_equal_states_pass_and_are_counted() -> None:
    record = compared(dict(BEFORE))
    check = equivalence_check(record, "equivalent-after-update")
    assert (check.outcome, record.compared, record.differences) == (Outcome.PASS, 3, ())


def test_changed_missing_and_new_values_are_differences() -> None:
    record = compared({"qom/machine/nic/mac": "52:55", "process/threads/CPU 0": "1", "process/threads/leaked": "1"})
    assert record.differences == (
        Difference("qom/machine/nic/mac", "52:54", "52:55"),
        Difference("kernel/tap0/qdisc", "noqueue", None),
        Difference("process/threads/leaked", None, "1"),
    )
    check = equivalence_check(record, "equivalent-after-update")
    assert check.outcome is Outcome.FAIL
    assert check.message.startswith("3 of 4 values differ after update 2: qom/machine/nic/mac was 52:54, is 52:55; ")
    assert "process/threads/leaked was absent, is 1" in check.message


def test_an_entry_may_allow_a_number_of_differences_with_one_accelerator() -> None:
    entry = AllowedDifference("memory/**", "wall clock", accelerator="kvm", most=1)
    before, one = {"memory/ram/page 0x0": "a", "memory/ram/page 0x1": "b"}, {"memory/ram/page 0x0": "c"}

    def found(after: dict[str, str], accelerator: str) -> int:
        states = Snapshot(before), Snapshot({**before, **after})
        record = compare(*states, StatePair.PAUSED, Mechanism.CPR, (entry,), accelerator=accelerator)
        assert record.allowed + len(record.differences) == len(after)
        return len(record.differences)

    assert [found(one, "kvm"), found({**one, "memory/ram/page 0x1": "d"}, "kvm"), found(one, "tcg")] == [0, 1, 1]


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [("c027", "8027", True), ("c027", "8023", False), ("c027", None, False), ("c027", "no number", False)],
)
def test_bits_that_are_named_may_differ(before: str, after: str | None, allowed: bool) -> None:
    assert AllowedDifference("vmstate/ioapic#*/ioredtbl[*]", "why", bits=0x4000).allows(before, after) is allowed


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("qom/a/*/c", "qom/a/b/c", True),
        ("qom/a/*/c", "qom/a/b/b/c", False),
        ("qom/a/**", "qom/a/b/b/c", True),
        ("qom/device[*]/x", "qom/device[3]/x", True),
        ("qom/device[*]/x", "qom/device3/x", False),
        ("qom/a.b", "qom/aXb", False),
    ],
)
def test_a_star_stays_within_one_part(pattern: str, path: str, matches: bool) -> None:
    assert AllowedDifference(pattern, "why").matches(path) is matches


def test_an_allowed_difference_is_counted_and_may_be_restricted() -> None:
    after = BEFORE | {"qom/machine/nic/mac": "52:55"}
    allowed = AllowedDifference("qom/machine/*/mac", "why", comparisons=(StatePair.UPDATE,))
    record = compared(after, allowed)
    assert (record.allowed, record.differences) == (1, ())
    other = AllowedDifference("qom/machine/*/mac", "why", comparisons=(StatePair.CHAIN,))
    foreign = AllowedDifference("qom/machine/*/mac", "why", mechanisms=(Mechanism.LOCAL,))
    assert len(compared(after, other, foreign).differences) == 1


def test_a_side_that_cannot_be_read_is_inconclusive_and_hides_no_other() -> None:
    def refused() -> dict[str, str]:
        raise InstrumentError("read the tap", "no such link")

    snapshot = take_snapshot({"kernel": refused, "qom": lambda: {"machine/nic/mac": "52:54"}})
    assert snapshot.values == {"qom/machine/nic/mac": "52:54"}
    record = compare(Snapshot(BEFORE), snapshot, StatePair.UPDATE, Mechanism.CPR, (), "update 1")
    assert record.differences == (Difference("process/threads/CPU 0", "1", None),)
    alone = compare(
        Snapshot({"qom/machine/nic/mac": "52:54"}), snapshot, StatePair.UPDATE, Mechanism.CPR, (), "update 1"
    )
    check = equivalence_check(alone, "equivalent-after-update")
    assert (check.outcome, check.observed) == (
        Outcome.INCONCLUSIVE,
        "not read: kernel: cannot read the tap: no such link",
    )


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (QmpRefused("read the devices", "no such device", error_class="GenericError"), Outcome.FAIL),
        (OSError(errno.ENODEV, "No such device"), Outcome.FAIL),
        (OSError(errno.EMFILE, "Too many open files"), Outcome.INCONCLUSIVE),  # of this process
        (InstrumentError("read the tap", "no such link"), Outcome.INCONCLUSIVE),
    ],
)
def test_a_side_that_was_read_and_is_refused_differs(error: Exception, outcome: Outcome) -> None:
    def refused() -> dict[str, str]:
        raise error

    after = take_snapshot({"kernel": refused, "qom": lambda: {"machine/nic/mac": "52:54"}})
    before = Snapshot({"qom/machine/nic/mac": "52:54", "kernel/tap0/qdisc": "noqueue"})
    record = compare(before, before.updated(after), StatePair.UPDATE, Mechanism.CPR, (), "update 1")
    check = equivalence_check(record, "equivalent-after-update")
    assert check.outcome is outcome
    if outcome is Outcome.FAIL:
        assert "values differ after update 1: kernel was readable, is refused: " in check.message
    same = compare(after, after, StatePair.UPDATE, Mechanism.CPR, ())
    assert equivalence_check(same, "x").outcome is Outcome.INCONCLUSIVE


def test_nothing_compared_is_inconclusive() -> None:
    check = equivalence_check(compare(Snapshot({}), Snapshot({}), StatePair.UPDATE, Mechanism.CPR, ()), "x")
    assert check.outcome is Outcome.INCONCLUSIVE


def test_long_values_are_shown_where_they_begin_to_differ() -> None:
    before, after = "a" * 1000 + "b" * 1000, "a" * 1000 + "c" * 1000
    (difference,) = compared({"qom/x": after}, before={"qom/x": before}).differences
    assert difference.before
    assert difference.after
    assert "ab" in difference.before
    assert "ac" in difference.after
    assert len(difference.before) <= LONGEST_VALUE + 2


def test_the_shipped_file_is_valid() -> None:
    entries = allowed_differences()
    assert entries
    assert len(set(entries)) == len(entries), "an entry is there twice"


@pytest.mark.parametrize(
    ("path", "comparisons"),
    [
        ("qmp/query-migrate/status", set(StatePair)),
        ("qmp/query-migrate/expected-downtime", set(StatePair)),
        ("qmp/query-migrate/ram/page-size", set(StatePair)),
        ("qmp/query-migrate/blocked-reasons", set()),  # the next update would be refused
        ("vmstate/mc146818rtc#0/next_alarm_time", {StatePair.DEVICE_STATE, StatePair.PAUSED}),
        ("vmstate/mc146818rtc#0/update_timer", {StatePair.DEVICE_STATE, StatePair.PAUSED}),
        ("vmstate/mc146818rtc#0/periodic_timer", set()),
        ("guest/kernel/sched: DL replenish lagged too much", set(StatePair)),
        ("guest/kernel/rtc_cmos #:#: unable to read current time", set(StatePair)),
        ("guest/kernel/rtc_cmos #:#: setting system clock", set()),
        ("guest/kernel/Reading current time from RTC took around # ms", set(StatePair)),
    ],
)
def test_what_the_shipped_file_allows(path: str, comparisons: set[StatePair]) -> None:
    entries = [item for item in allowed_differences() if item.matches(path)]
    applies = {pair for pair in StatePair for item in entries if item.applies_to(pair, Mechanism.CPR, "tcg")}
    assert applies == comparisons


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[allowed]]\npath = 'qom/a'\n", "allowed[0].reason: missing"),
        ("[[allowed]]\npath = 'qom/a'\nreason = ' '\n", "allowed[0].reason: "),
        ("[[allowed]]\npath = 'q/a'\nreason = 'x'\n[[allowed]]\npath = '/a'\nreason = 'x'\n", "allowed[1].path: "),
        ("[[allowed]]\npath = 'qom*/a'\nreason = 'x'\n", "allowed[0].path: "),  # no side is named so
        ("[[allowed]]\npath = 'qom/a'\nreason = 'x'\nwhen = 'now'\n", "unknown field `when`"),
        ("[[allowed]]\npath = 'qom/a'\nreason = 'x'\ncomparisons = ['now']\n", "allowed[0].comparisons[0]: "),
        ("[other]\nx = 1\n", "unknown field `other`"),
        ("allowed = 1\n", "allowed: "),
        ("x = \n", "line 1"),
    ],
)
def test_an_invalid_file_is_a_usage_error_with_the_entry(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "equivalence.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        allowed_differences(path)
    assert message in caught.value.one_line()
