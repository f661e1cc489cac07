"""Inject faults into updates and check the QEMU that must survive: run state, descriptors, tap, traffic, vhost."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, QemuFailed, UpdateFailed
from cprlib.evidence.equivalence import Snapshot
from cprlib.evidence.records import Comparison, FaultRecord
from cprlib.evidence.update_checks import fault_record, fault_record_of
from cprlib.files import write_text
from cprlib.linux.descriptors import DEVICE_KINDS, DescriptorTable
from cprlib.linux.kernel_trace import KernelTrace
from cprlib.process import describe_status
from cprlib.qemu.nic_state import differences
from cprlib.qemu.wrapper import last_message
from cprlib.testing.equivalence import HOST_SIDES, read_compared
from cprlib.testing.hand_over import TRAFFIC_ANSWER_S, check_no_downgrade_message, check_vhost_carries, probing
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_view import TapView, read_tap_view
from cprlib.testing.quiet_nic import Rest, rest_checks, watch_rest
from cprlib.traffic.probes import Probes
from cprlib.update.fault_injection import inject_fault
from cprlib.update.faults import TARGET_SETTINGS, Action, Actor, Fault, Survivor
from cprlib.update.outcome import FAILED_STATES
from cprlib.update.results import FaultResult

NO_NAME = "Unknown error"  # strerror(3) of what is no error number


class FailedUpdates:
    """Injects faults into updates of one guest, one after the other; created by :func:`failed_updates`."""

    def __init__(self, case: MeasuredCase, trace: KernelTrace, probes: Probes, rest: Rest | None) -> None:
        self._case = case
        self._trace = trace
        self._probes = probes
        self.calls_fail = False  # calls of vhost are made to fail
        self._rest = rest  # of the source before the faults; None when it was checked, or not watched
        self._tap: TapView | None = None
        self._state: Snapshot | None = None  # of the source before the faults; None when the guest has left it

    def inject(self, faults: Iterable[Fault]) -> bool:
        """Inject each fault into an update of its own and check the survivor.

        It stops after the first fault that ends the guest: the others are inconclusive.

        :returns: whether the guest can be updated again.
        """
        faults = list(faults)
        with self._case.without_update():
            self._state = read_compared(self._case.guest)
        self._tap = read_tap_view(self._case.guest.topology, self._case.guest.machine)
        for index, fault in enumerate(faults):
            if fault.survivor is not Survivor.SOURCE:
                self.check_rest()
            with self._case.after_fault(fault.name):
                answers = self._one(fault)
            if not answers:
                for other in faults[index + 1 :]:
                    reason = "an earlier fault ended the guest"
                    with self._case.after_fault(other.name):
                        self._case.inconclusive("survived", other.survivor, reason)
                    self._case.add_fault(fault_record(other, reason))
                return False
        name, subject = "equivalent-after-failed-updates", f"{len(faults)} failed updates"
        self._case.expect_same_state(self._state, Comparison.FAILED_UPDATE, name, subject)
        return True

    def check_rest(self) -> None:
        """Check once that the source is as quiet as before the failed updates; another QEMU may have the guest next."""
        if self._rest and (later := _rest(self._case)):
            self._case.add_checks(*rest_checks(self._rest, later))
        self._rest = None

    def _one(self, fault: Fault) -> bool:
        """Inject one fault; returns whether the guest answers afterwards."""
        case, source = self._case, self._case.guest.machine
        try:
            result = inject_fault(case.guest, fault)
        except (DeadlineExceeded, QemuFailed, UpdateFailed) as error:
            fallen = case.fallen_qemu()
            said = f"{fallen}; seen as: {error.one_line()}" if fallen else error.one_line()
            case.expect("ends", False, "the update ends", fallen or error.happened, said)
            case.add_fault(fault_record(fault, error.one_line()))
            return False
        if not result.reached:
            self._explain_not_reached(result)
        self._check_end(result)
        traffic_after_ms = None
        if fault.survivor is not Survivor.NEITHER:
            traffic_after_ms = self._check_guest(result)
        if case.guest.machine is not source:
            self._state = None
            if fault.action is Action.NO_NET_ADMIN:
                case.compares_states = False  # the guest's QEMU has fewer rights than the next target
        elif traffic_after_ms is not None:
            name = "equivalent"
            case.expect_same_state(self._state, Comparison.FAILED_UPDATE, name, fault.name, HOST_SIDES)
        case.add_fault(fault_record_of(result, traffic_after_ms))
        write_text(case.folder / "faults.md", _table(case.evidence.faults), mode=0o600)
        return fault.survivor is not Survivor.NEITHER and traffic_after_ms is not None

    def _explain_not_reached(self, result: FaultResult) -> None:
        """An update that failed before it was disturbed accuses QEMU; otherwise nothing is known of the fault."""
        case, fault = self._case, result.fault
        name, expected = "reached", f"phase {fault.phase}"
        if result.migration == "failed" and fault.action not in TARGET_SETTINGS:
            seen = f"the migration failed: {result.error or 'no reason'}"
            case.expect(name, False, expected, seen, f"the update failed before {fault.phase}, undisturbed: {seen}")
        else:
            case.inconclusive(name, expected, result.not_reached)

    def _check_end(self, result: FaultResult) -> None:
        case, fault = self._case, result.fault
        context = f"{fault.action} in phase {fault.phase}"
        words = f"{result.migration}: {result.error}" if result.error else result.migration
        match fault.survivor:
            case Survivor.SOURCE:
                good: tuple[str, ...] = ("failed", "cancelled", "none")
                if fault.unnoticed:
                    good = ("completed", "failed")  # the source may still be writing when the target ends
                case.expect(
                    "ends",
                    result.migration in good,
                    f"the migration is one of {', '.join(good)}",
                    words,
                    f"{context}: the migration status is {result.migration}",
                )
                if result.migration == "failed" and fault.action is not Action.CANCEL:
                    reason = result.error or "no reason"
                    expected = "QEMU says why (error-desc of query-migrate)"
                    case.expect("reason", bool(result.error), expected, reason, f"{context}: {reason}")
                if result.migration in FAILED_STATES:
                    meaning = f"{context}: status in the last event MIGRATION"
                    case.expect_equal("announced", result.announced, result.migration, meaning)
                case.expect_empty(
                    "migration-settings",
                    result.settings_changed,
                    "mode, parameters and capabilities of the next migration are as management has set them",
                    "the failed update changed them",
                )
                name, meaning = "source-runs", f"{context}: the source's run state"
                case.expect_equal(name, result.state_after, result.state_before, meaning)
                self._check_descriptors(result)
                self._check_tap(result)
            case Survivor.TARGET:
                ends = "gone" if fault.actor is Actor.SOURCE and fault.action is Action.KILL else "completed"
                case.expect(
                    "completes",
                    result.migration == ends and result.state_after == result.state_before,
                    f"{ends}, the target is {result.state_before}",
                    f"{words}, the target is {result.state_after}",
                    f"{context}: the update did not complete",
                )
                if fault.action in (Action.CONTINUE, Action.MIGRATE_AGAIN):
                    meaning = f"{context}: it was not refused, while the target is given the guest"
                    case.expect("refused", bool(result.refused), "refused", result.refused, meaning)
            case Survivor.ONE:
                seen = {"source": result.source_state, "target": result.target_state}
                owners = [who for who, run_state in seen.items() if run_state == result.state_before]
                case.expect(
                    "one-owner",
                    len(owners) == 1,
                    f"either the source or the target is {result.state_before}",
                    f"{' and '.join(owners) or 'none'}; {fault.action}: {result.refused or 'accepted'}",
                    f"{context}: the guest runs in {' and '.join(owners) or 'no QEMU'}",
                )
            case Survivor.NEITHER:
                case.expect(
                    "runs-nowhere",
                    "running" not in (result.state_after, result.target_state),
                    "no QEMU runs the guest",
                    f"source {result.state_after}, target {result.target_state}; dead since {result.acted_ns} ns",
                    "a QEMU runs the guest although its state was lost with another one",
                )
        said = f"{result.error}\n{result.source_messages}\n{result.target_messages}"
        case.expect_empty(
            "errors-have-names",
            [line.strip() for line in said.splitlines() if NO_NAME in line],
            "QEMU names the errors that it reports (strerror(3))",
            f"{context}: an error number was lost",
        )
        if fault.refusal:
            ended = result.target_exit
            last = last_message(result.target_messages) or "no message"
            how = "still running" if ended is None else describe_status(ended)
            case.expect(
                "refused",
                ended is not None and ended > 0,
                "the target exits with an error status",
                f"{how}: {last}",
                "the target keeps running" if ended is None else f"the target ended with {how}: {last}",
            )

    def _check_descriptors(self, result: FaultResult) -> None:
        """The source has the same descriptors as before: numbers, flags, inodes, interfaces, and count of each kind."""
        if result.after is None:
            return
        before, after = result.before.table, result.after.table
        changed = sorted(set(_devices(before)) ^ set(_devices(after)))
        had, has = before.count_by_kind(), after.count_by_kind()
        vhost = self._case.guest.machine.settings.netdevs[0].vhost
        if vhost and not (result.before.workers and result.after.workers):
            for counts in (had, has):
                counts.pop("eventfd", None)  # vhost, which uses some for each queue, was or is not active
        kinds = sorted({*had, *has})
        moved = [
            f"{had.get(kind, 0)}, then {has.get(kind, 0)} {kind}" for kind in kinds if had.get(kind) != has.get(kind)
        ]
        self._case.expect_empty(
            "descriptors",
            [*moved, *changed],
            "tap and vhost descriptors with the same numbers, flags, inode and iff; the same count of each kind",
            "the source's descriptors changed in the failed update",
        )

    def _check_tap(self, result: FaultResult) -> None:
        """The tap, which the target has used too, is unchanged: attached queues, header, send buffer, offloads."""
        if result.after is None or self._tap is None:
            return
        now = read_tap_view(self._case.guest.topology, self._case.guest.machine)
        changed = list(differences(self._tap.offloads, now.offloads))
        for queue, other in zip(self._tap.queues, now.queues, strict=False):
            changed += [f"descriptor {queue.number}: {item}" for item in differences(queue.facts(), other.facts())]
        self._case.expect_empty(
            "tap",
            changed,
            "the tap's queues, header and offloads are unchanged",
            "the failed update changed the source's tap",
        )

    def _check_guest(self, result: FaultResult) -> float | None:
        """The guest answers again, through vhost if it has that.

        :returns: ms from the fault until every queue has carried a round trip; None when one does not.
        """
        case, fault, machine = self._case, result.fault, self._case.guest.machine
        name = "traffic"
        expected = f"answers on every queue within {TRAFFIC_ANSWER_S:.0f} s"
        if result.state_before != "running":
            machine.qmp.execute("cont")
        try:
            self._probes.wait_answers(Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST))
        except DeadlineExceeded as error:
            meaning = f"no traffic after {fault.action} in phase {fault.phase}"
            case.expect(name, False, expected, error.happened, meaning)
            return None
        now = time.time_ns()
        traffic_after_ms = (now - result.acted_ns) / 1e6
        case.expect(name, True, expected, f"{traffic_after_ms:.0f} ms after the fault")
        if machine.settings.netdevs[0].vhost:
            check_vhost_carries(case, "vhost", self._probes, self._trace, now)
            name, said = "no-downgrade", result.source_messages
            check_no_downgrade_message(case, name, said, may_fail=self.calls_fail)
            if result.after is not None and fault.survivor is Survivor.SOURCE:
                workers, queues = len(result.after.workers), machine.settings.netdevs[0].queues
                case.expect_equal("workers", workers, queues, "vhost workers of the source")
        if result.state_before != "running":
            machine.qmp.execute("stop")
        return traffic_after_ms


def _devices(table: DescriptorTable) -> list[tuple[str, int, int, int, str]]:
    """What must not change; without O_CLOEXEC, which a reopened descriptor has (patch 3)."""
    return [
        (row.kind, row.number, row.flags & ~os.O_CLOEXEC, row.inode, row.interface or "")
        for row in table.rows
        if row.kind in DEVICE_KINDS
    ]


def _table(faults: Sequence[FaultRecord]) -> str:
    """The faults so far, as Markdown."""
    names = ["phase", "actor", "action", "survivor", "migration", "state"]
    names += ["resumed_after_ms", "traffic_after_ms", "target_exit"]
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    for fault in faults:
        values = [getattr(fault, name) for name in names]
        cells = [f"{value:.0f}" if isinstance(value, float) else str(value) for value in values]
        lines.append("| " + " | ".join("-" if cell == "None" else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def failed_updates(case: MeasuredCase) -> Iterator[FailedUpdates]:
    """Start a kernel trace and probes for a series of faults on a case's guest."""
    rest = _rest(case)
    with probing(case) as (trace, probes):
        updates = FailedUpdates(case, trace, probes, rest)
        yield updates
        updates.check_rest()


def _rest(case: MeasuredCase) -> Rest | None:
    """How much the guest's QEMU does while nothing is sent; None for a guest that does not answer."""
    machine = case.guest.machine
    if machine.exit_status() is not None or machine.status() != "running":
        return None
    return watch_rest(machine.pid, case.guest.agent)
