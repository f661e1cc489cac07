"""Inject faults into updates of one guest, one after the other, and check what survives: its QEMU, traffic, vhost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, QemuFailed, UpdateFailed
from cprlib.evidence.equivalence import Snapshot
from cprlib.evidence.records import Check, FaultRecord, Outcome, StatePair
from cprlib.evidence.update_checks import fault_record_of
from cprlib.linux.kernel_trace import KernelTrace
from cprlib.testing.equivalence import FROZEN_SIDES, HOST_SIDES, PAUSED_SIDES, read_compared, read_state
from cprlib.testing.hand_over import check_no_downgrade_message, check_vhost_carries, probing
from cprlib.testing.idle_nic import IdleLoad, idle_checks, measure_idle_load
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_view import TapView, read_tap_view
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, Probes
from cprlib.update.fault_injection import inject_fault
from cprlib.update.faults import Action, Fault, Survivor, faults_in
from cprlib.update.outcome import FAILED_STATES
from cprlib.update.results import FaultResult
from fault_ends import check_end

CHANNEL_NAME = "cprlib-"  # its beginning (MigrationChannels.fresh())
LATE_MS, LATE_TIMES = 1000.0, 30  # until RESUME; some faults act only once the target has started


class FaultSequence:
    """Injects faults into updates of one guest, one after the other; created by :func:`failed_updates`."""

    def __init__(self, case: MeasuredCase, trace: KernelTrace, probes: Probes, idle: IdleLoad | None) -> None:
        self._case = case
        self._trace = trace
        self._probes = probes
        self.calls_fail = False  # calls of vhost are made to fail
        self._idle = idle  # of the source before the faults; None when it was checked, or not watched
        self._tap: TapView | None = None
        self._reasons = set[str]()  # that name a channel, whose name no other update has
        self._back_ms: dict[str, float] = {}  # from each fault to the source's RESUME
        self._state: Snapshot | None = None  # of the source before the faults; None when the guest has left it
        self._paused = False  # the guest is paused before each fault
        self._more = False  # the next faults belong to the ones before

    def inject(self, faults: Iterable[Fault], *, more: bool = False) -> bool:
        """Inject each fault into an update of its own and check the survivor.

        It stops after the first fault that ends the guest: the others are inconclusive.

        :param more: the faults of the next call belong to these: the whole state is compared after those.
        :returns: whether the guest can be updated again.
        """
        faults = faults_in(self._case.guest.mode, faults)
        if not self._more:
            with self._case.control_step():
                self._state = read_compared(self._case.guest)
        self._more = more
        self._tap = read_tap_view(self._case.guest.topology, self._case.guest.machine)
        self._paused = self._case.guest.machine.status() != "running"
        for index, fault in enumerate(faults):
            if fault.survivor is not Survivor.SOURCE:
                self.check_idle()
            with self._case.after_fault(fault.name):
                answers = self._one(fault)
            if not answers:
                for other in faults[index + 1 :]:
                    reason = "an earlier fault ended the guest"
                    with self._case.after_fault(other.name):
                        self._case.inconclusive("survived", other.survivor, reason)
                    self._case.add_fault(FaultRecord(other, error=reason))
                return False
        if not more:
            self._expect_back_in_time()
            name, subject = "equivalent-after-failed-updates", "the failed updates"
            self._case.expect_same_state(self._state, StatePair.FAILED_UPDATE, name, subject)
        return True

    def _expect_back_in_time(self) -> None:
        """The source runs the guest soon after each fault, compared with a quick one of them on this machine."""
        times_ms = sorted(self._back_ms.values())
        quick_ms = times_ms[len(times_ms) // 4] if times_ms else 0.0
        limit_ms = LATE_MS + LATE_TIMES * quick_ms
        late = [f"{name} {ms:.0f} ms" for name, ms in self._back_ms.items() if ms > limit_ms]
        expected = f"RESUME within {limit_ms:.0f} ms of each fault; a quarter of them take {quick_ms:.0f} ms or less"
        self._case.expect_empty("resumes-in-time", late, expected, "the guest stood still for long after a fault")

    def check_idle(self) -> None:
        """Check once that the source is as quiet as before the failed updates; another QEMU may have the guest next."""
        if self._idle and (later := _idle(self._case)):
            self._case.add_checks(*idle_checks(self._idle, later))
        self._idle = None

    def _one(self, fault: Fault) -> bool:
        """Inject one fault; returns whether the guest answers afterwards."""
        case, source = self._case, self._case.guest.machine
        try:
            frozen = read_state(case.guest, FROZEN_SIDES) if self._paused else None
            result = inject_fault(case.guest, fault)
        except (DeadlineExceeded, QemuFailed, UpdateFailed) as error:
            failure = case.qemu_failure()
            cause = failure or case.external_cause()
            said = f"{cause}; seen as: {error.one_line()}" if cause else error.one_line()
            outcome = Outcome.INCONCLUSIVE if cause and not failure else Outcome.FAIL
            case.add_checks(Check("ends", outcome, "the update ends", cause or error.happened, said))
            case.add_fault(FaultRecord(fault, error=error.one_line()))
            return False
        case.expect_reached(result)
        if result.completed_without_fault:
            self._idle = None  # of a QEMU that has ended
        else:
            check_end(case, result, self._tap)
        self._check_reason(result)
        survived = case.guest.machine is source and fault.survivor is Survivor.SOURCE
        if survived and result.back_ms is not None:
            self._back_ms[fault.name] = result.back_ms
        if survived and result.state_before != "running":  # before cont
            case.expect_same_state(self._state, StatePair.FAILED_UPDATE, "equivalent", fault.name, PAUSED_SIDES)
        traffic_after_ms = None
        if fault.survivor is not Survivor.NEITHER or result.completed_without_fault:
            case.expect_same_state(frozen, StatePair.PAUSED, "memory-and-registers-kept", fault.name)
            traffic_after_ms = self._check_guest(result)
        if case.guest.machine is not source:
            self._state = None
            if fault.action is Action.NO_NET_ADMIN:
                case.compares_states = False  # the guest's QEMU has fewer rights than the next target
        elif traffic_after_ms is not None and result.state_before == "running":
            case.expect_same_state(self._state, StatePair.FAILED_UPDATE, "equivalent", fault.name, HOST_SIDES)
        case.add_fault(fault_record_of(result, traffic_after_ms))
        return traffic_after_ms is not None

    def _check_reason(self, result: FaultResult) -> None:
        """QEMU does not report the reason of an earlier update, which names the channels of that one."""
        if self._reasons and result.migration in FAILED_STATES:
            expected = "a reason of its own, or none (error-desc of query-migrate)"
            meaning = f"the update has the reason of one that failed before: {result.error}"
            self._case.expect(
                "own-reason", result.error not in self._reasons, expected, result.error or "none", meaning
            )
        if CHANNEL_NAME in result.error:
            self._reasons.add(result.error)

    def _check_guest(self, result: FaultResult) -> float | None:
        """The guest answers again, through vhost if it has that.

        :returns: ms from the fault until every queue has carried a round trip; None when one does not.
        """
        case, fault, machine = self._case, result.fault, self._case.guest.machine
        name = "traffic"
        expected = f"answers on every queue within {TRAFFIC_ANSWER_S:.0f} s"
        if result.state_before != "running" or fault.action is Action.STOP_TARGET:
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
            if result.after is not None and fault.survivor is Survivor.SOURCE and not result.completed_without_fault:
                workers, queues = len(result.after.workers), machine.settings.netdevs[0].queues
                case.expect_equal("workers", workers, queues, "vhost workers of the source")
        if result.state_before != "running":
            machine.qmp.execute("stop")
        return traffic_after_ms


@contextlib.contextmanager
def failed_updates(case: MeasuredCase) -> Iterator[FaultSequence]:
    """Start a kernel trace and probes for a series of faults on a case's guest."""
    idle = _idle(case)
    with probing(case) as (trace, probes):
        updates = FaultSequence(case, trace, probes, idle)
        yield updates
        updates.check_idle()


def fail_then_update(
    case: MeasuredCase, faults: Iterable[Fault], afterwards: Callable[[MeasuredCase], None] = lambda _case: None
) -> bool:
    """Inject faults into updates of a guest, and update it.

    :param afterwards: called before the last update, with the guest in the source.
    :returns: whether it runs in the target.
    """
    with failed_updates(case) as updates:
        if not updates.inject(faults):
            return False
    afterwards(case)
    case.live_update(check="next-update-succeeds")
    return True


def _idle(case: MeasuredCase) -> IdleLoad | None:
    """How much the guest's QEMU does while nothing is sent; None for a guest that does not answer."""
    machine = case.guest.machine
    if machine.exit_status() is not None or machine.status() != "running":
        return None
    return measure_idle_load(machine.pid, case.guest.agent)
