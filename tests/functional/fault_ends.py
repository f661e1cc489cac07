"""Checks of the QEMU that has to survive a fault: how the migration ends, run states, descriptors, tap, messages."""

from __future__ import annotations

import os

from cprlib.linux.descriptors import DEVICE_KINDS, DescriptorTable, changed_counts, read_table
from cprlib.process import describe_status
from cprlib.qemu.nic_state import differences
from cprlib.qemu.wrapper import last_message
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_view import TapView, read_tap_view
from cprlib.update.faults import Action, Actor, Survivor
from cprlib.update.outcome import FAILED_STATES
from cprlib.update.results import FaultResult, ProcessView

ENDS = {Action.CANCEL: "cancelled", Action.NO_CPR_CHANNEL: "none"}  # status by query-migrate; others: failed
NO_NAME = "Unknown error"  # strerror(3) of what is no error number


def check_end(case: MeasuredCase, result: FaultResult, tap: TapView | None) -> None:
    """Check the end of an update with a fault, by the QEMU that has to survive it.

    :param tap: as it was before the first fault.
    """
    match result.fault.survivor:
        case Survivor.SOURCE:
            _check_source(case, result)
            if result.after is not None:
                expect_same_descriptors(case, "descriptors", result.before, result.after)
            _check_tap(case, result, tap)
        case Survivor.TARGET:
            _check_target(case, result)
            _check_target_devices(case, result, tap)
        case Survivor.EITHER:
            _check_one_owner(case, result)
        case Survivor.NEITHER if result.reached:
            _check_nowhere(case, result)
    _check_error_names(case, result)
    if result.fault.exits:
        _check_target_exits(case, result)


def _check_source(case: MeasuredCase, result: FaultResult) -> None:
    """The migration ends, with a reason when it failed, and the source has its run state."""
    fault, context = result.fault, _context(result)
    good = {ENDS.get(fault.action, "failed")}
    if fault.unnoticed:
        good.add("completed")  # unless the source is still writing when the target ends
    case.expect(
        "ends",
        result.migration in good,
        f"the migration is {' or '.join(sorted(good))}",
        _migration(result),
        f"{context}: the migration status is {result.migration}",
    )
    if result.migration == "failed" and fault.action is not Action.CANCEL:
        reason = result.error or "no reason"
        expected = "QEMU says why (error-desc of query-migrate)"
        case.expect("reason", bool(result.error), expected, reason, f"{context}: {reason}")
    if result.migration in FAILED_STATES:
        meaning = f"{context}: status in the last event MIGRATION"
        case.expect_equal("migration-event", result.announced, result.migration, meaning)
    if "STOP" in result.run_events and result.state_before == "running":
        meaning = f"{context}: the source's last event of STOP and RESUME"
        case.expect_equal("resume-event", result.run_events[-1], "RESUME", meaning)
    case.expect_empty(
        "migration-settings",
        result.settings_changed,
        "mode, parameters and capabilities of the next migration are as management has set them",
        "the failed update changed them",
    )
    meaning = f"{context}: the source's run state"
    case.expect_equal("source-runs", result.state_after, result.state_before, meaning)
    meaning = f"{context}: whether the target ran the guest, too"
    case.expect_equal("target-never-ran", result.target_ran, False, meaning)


def _check_target(case: MeasuredCase, result: FaultResult) -> None:
    """The update completes; the source is gone only where it was killed. One that was stopped does not run."""
    fault, context = result.fault, _context(result)
    state = "paused" if fault.action is Action.STOP_TARGET else result.state_before
    ends = "gone" if fault.actor is Actor.SOURCE and fault.action is Action.KILL else "completed"
    case.expect(
        "completes",
        result.migration == ends and result.state_after == state,
        f"{ends}, the target is {state}",
        f"{_migration(result)}, the target is {result.state_after}",
        f"{context}: the update did not complete",
    )
    if result.source_state not in ("gone", "none"):  # it was not killed, and does not end
        case.expect_equal("source-ends", result.source_state, "postmigrate", f"{context}: the source's run state")
    if fault.action in (Action.CONTINUE, Action.MIGRATE_AGAIN, Action.UNPLUG, Action.PLUG):
        meaning = f"{context}: it was not refused, while the target is given the guest"
        case.expect("refused", bool(result.refused), "refused", result.refused, meaning)


def _check_target_devices(case: MeasuredCase, result: FaultResult, tap: TapView | None) -> None:
    """The target has as many tap and vhost descriptors as the source had, and the tap is unchanged."""
    if case.guest.machine.exit_status() is not None:
        return
    has, had = read_table(case.guest.machine.pid).device_counts, result.before.table.device_counts
    case.expect_equal("descriptor-counts", has, had, "tap and vhost descriptors in the target")
    _compare_tap(case, tap)


def _check_one_owner(case: MeasuredCase, result: FaultResult) -> None:
    seen = {"source": result.source_state, "target": result.target_state}
    owners = " and ".join(who for who, run_state in seen.items() if run_state == result.state_before)
    case.expect(
        "one-owner",
        owners in seen,
        f"either the source or the target is {result.state_before}",
        f"{owners or 'none'}; {result.fault.action}: {result.refused or 'accepted'}",
        f"{_context(result)}: the guest runs in {owners or 'no QEMU'}",
    )
    if owners == "target" and result.fault.action is not Action.YANK:  # which is never refused
        meaning = f"{_context(result)}: it was not refused, and the guest runs in the target"
        case.expect("cancel-refused", bool(result.refused), "refused", result.refused or "accepted", meaning)


def _check_nowhere(case: MeasuredCase, result: FaultResult) -> None:
    """No QEMU runs the guest after the fault; the target of a source that dies has never run it."""
    runs = "running" in (result.state_after, result.target_state) or result.back_ms is not None
    ran = result.target_ran and result.fault.actor is Actor.SOURCE
    case.expect(
        "runs-nowhere",
        not (runs or ran),
        "no QEMU runs the guest",
        f"source {result.state_after}, target {result.target_state}{', which has run it' if ran else ''}",
        f"{_context(result)}: a QEMU runs the guest although its state was lost with another one",
    )


def _check_error_names(case: MeasuredCase, result: FaultResult) -> None:
    said = f"{result.error}\n{result.source_messages}\n{result.target_messages}"
    case.expect_empty(
        "errors-have-names",
        [line.strip() for line in said.splitlines() if NO_NAME in line],
        "QEMU names the errors that it reports (strerror(3))",
        f"{_context(result)}: an error number was lost",
    )


def _check_target_exits(case: MeasuredCase, result: FaultResult) -> None:
    """The target ends by itself, with an error status."""
    ended = result.target_exit
    last = last_message(result.target_messages) or "no message"
    how = "still running" if ended is None else describe_status(ended)
    case.expect(
        "target-exits",
        ended is not None and ended > 0,
        "the target exits with an error status",
        f"{how}: {last}",
        "the target keeps running" if ended is None else f"the target ended with {how}: {last}",
    )


def expect_same_descriptors(case: MeasuredCase, name: str, before: ProcessView, after: ProcessView) -> None:
    """The source has the same descriptors as before: numbers, flags, inodes, interfaces, and count of each kind.

    :param name: the check's.
    :param before, after: the source before and after a failed update.
    """
    changed = sorted(set(_devices(before.table)) ^ set(_devices(after.table)))
    had, has = before.table.count_by_kind(), after.table.count_by_kind()
    vhost = case.guest.machine.settings.netdevs[0].vhost
    if vhost and not (before.workers and after.workers):
        for counts in (had, has):
            counts.pop("eventfd", None)  # vhost, which uses some for each queue, was or is not active
    case.expect_empty(
        name,
        [*changed_counts(had, has), *changed],
        "tap and vhost descriptors with the same numbers, flags, inode and iff; the same count of each kind",
        "the source's descriptors changed in the failed update",
    )


def _check_tap(case: MeasuredCase, result: FaultResult, tap: TapView | None) -> None:
    """The tap, which the target has used too, is unchanged: attached queues, header, send buffer, offloads."""
    if result.after is not None:
        _compare_tap(case, tap)


def _compare_tap(case: MeasuredCase, tap: TapView | None) -> None:
    if tap is None:
        return
    now = read_tap_view(case.guest.topology, case.guest.machine)
    case.expect_empty(
        "tap",
        differences(tap.facts(), now.facts()),
        "the tap's queues, header and offloads are unchanged",
        "the update changed the tap",
    )


def _context(result: FaultResult) -> str:
    return f"{result.fault.action} in phase {result.fault.phase}"


def _migration(result: FaultResult) -> str:
    return f"{result.migration}: {result.error}" if result.error else result.migration


def _devices(table: DescriptorTable) -> list[tuple[str, int, int, int, str]]:
    """What must not change; without O_CLOEXEC, which a reopened descriptor has (patch 3)."""
    return [
        (row.kind, row.number, row.flags & ~os.O_CLOEXEC, row.inode, row.interface or "")
        for row in table.rows
        if row.kind in DEVICE_KINDS
    ]
