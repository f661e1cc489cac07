"""What is taken from the events of both QEMUs of an update."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cprlib.qemu.qmp import QmpEvent
from cprlib.qemu.trace_log import TraceLog, TraceRecord
from cprlib.update.events import Step
from cprlib.update.results import events_of, other_events_of

pytestmark = pytest.mark.fast

SOURCE = (("NIC_RX_FILTER_CHANGED", 5), ("MIGRATION", 11), ("STOP", 12), ("MIGRATION_PASS", 13), ("MIGRATION", 14))
TARGET = (("RESUME", 20), ("NIC_RX_FILTER_CHANGED", 21))


def machine(name: str, *events: tuple[str, int], statuses: tuple[tuple[str, int], ...] = ()) -> Any:
    known = [QmpEvent(event, {}, time_ns, time_ns) for event, time_ns in events]
    records = (TraceRecord(time_ns, "migrate_set_state", f"new state {status}") for status, time_ns in statuses)
    return SimpleNamespace(name=name, qmp=SimpleNamespace(events=known), trace=TraceLog(tuple(records), ()))


def test_a_guest_that_stands_still_has_no_events() -> None:
    assert other_events_of(machine("source", *SOURCE), machine("target", *TARGET), 10) == ()
    source = machine("source", *SOURCE, ("RTC_CHANGE", 15))
    target = machine("target", ("NIC_RX_FILTER_CHANGED", 19), *TARGET)
    assert other_events_of(source, target, 10) == ("source RTC_CHANGE", "target NIC_RX_FILTER_CHANGED")


def test_events_before_the_stop_and_after_resume_are_the_guest_s() -> None:
    paused = machine("source", *SOURCE[:2], *SOURCE[3:])
    assert other_events_of(paused, machine("target", ("RESET", 19), *TARGET), 10) == ()
    assert other_events_of(machine("source", *SOURCE), machine("target", ("RESET", 19)), 10) == ()


def test_a_reset_that_the_guest_asked_for_before_the_stop_is_the_guest_s() -> None:
    source, target = machine("source", *SOURCE), machine("target", *TARGET)
    asked, ordered = (
        {"guest": guest, "reason": reason}
        for guest, reason in ((True, "guest-reset"), (False, "host-qmp-system-reset"))
    )
    source.qmp.events.append(QmpEvent("RESET", asked, 15, 15))
    assert other_events_of(source, target, 10) == ()
    source.qmp.events.append(QmpEvent("RESET", ordered, 16, 16))
    target.qmp.events.insert(0, QmpEvent("RESET", asked, 19, 19))
    assert other_events_of(source, target, 10) == ("source RESET", "target RESET")


def test_the_source_itself_says_when_its_migration_has_completed() -> None:
    """The harness sees it later, and a stall of the machine in between is no part of the downtime that QEMU reports."""
    source = machine("source", ("STOP", 12), statuses=(("completed", 3), ("completed", 15)))
    source.qmp.events += [QmpEvent("MIGRATION", {"status": status}, 16, 16) for status in ("device", "completed")]
    for trace, expected in ((source.trace, 15), (TraceLog((), ()), 16)):
        source.trace = trace
        times = {item.name: item.time_ns for item in events_of(source, machine("target", *TARGET), 10)}
        assert times == {Step.STOP: 12, Step.RESUME: 20, Step.COMPLETED: expected}


@pytest.mark.parametrize(("before", "expected"), [("active", None), ("pre-switchover", 14)])
def test_a_switchover_is_a_step_where_management_has_to_continue_it(before: str, expected: int | None) -> None:
    earlier = (("pre-switchover", 2), ("device", 3))
    source = machine("source", statuses=(*earlier, (before, 13), ("device", 14)))
    times = {item.name: item.time_ns for item in events_of(source, machine("target"), 10)}
    assert times.get(Step.SWITCHOVER) == expected
