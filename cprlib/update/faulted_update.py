"""An update into which a fault is put: brought to the fault's phase by gates, then spoilt, then watched to its end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, CprlibError, DeadlineExceeded, InstrumentError, QemuFailed, QmpRefused
from cprlib.linux.descriptors import exhaust_descriptors
from cprlib.process import kill_group
from cprlib.qemu.channels import MigrationChannels, is_listening
from cprlib.qemu.machine import Machine, start_machine
from cprlib.update.fault_end import END_S, FaultEnd
from cprlib.update.fault_gates import FaultGates, changed_settings
from cprlib.update.fault_result import FaultResult
from cprlib.update.faults import Action, Actor, Fault, Phase, Survivor
from cprlib.update.live_update import view, view_of_giver
from cprlib.update.running_guest import RunningGuest

GATE_S = 30.0
DURING = (
    Phase.VM_STOPPED,
    Phase.FDS_SENT,
    Phase.FDS_RECEIVED,
    Phase.CREATING_DEVICES,
    Phase.MAIN_CONNECTED,
    Phase.BEFORE_SWITCHOVER,
    Phase.STATE_LOADING,
)
"""Phases that come once ``migrate`` has been given."""


class FaultedUpdate:
    """One update of a guest with one fault in it; :meth:`perform` does it all.

    Where the target survives the guest is handed over to it, as after any update.
    """

    def __init__(self, guest: RunningGuest, fault: Fault) -> None:
        self._guest = guest
        self._fault = fault
        self._source = guest.machine
        self._target: Machine | None = None
        self._channels = MigrationChannels.fresh()
        self._gates = FaultGates(guest.topology.switch, fault, self._channels)
        self._migrating: Future[str] | None = None
        self._begun_ns = time.time_ns()
        self._acted_ns = 0
        self._why = ""
        self._refused = ""
        self._before = view(guest.machine)
        self._limit = resource.prlimit(guest.machine.pid, resource.RLIMIT_NOFILE)[0]

    def perform(self) -> FaultResult:
        """Carry the update and the fault out.

        :raises DeadlineExceeded: the update did not come to an end.
        :raises CprlibError: the harness could not do its part.
        """
        source, fault = self._source, self._fault
        state, before, said = source.status(), self._before, len(source.messages)
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as elsewhere:
            try:
                self._drive(stack, elsewhere)
                end = FaultEnd(self._guest, fault, source, self._the_target(), state, self._acted_ns)
                migration, error = end.wait_migration(self._migrating.result() if self._migrating else "")
                back_ms, target_exit = end.wait_survivor(stack)
            finally:
                self._let_go()
        alive = source.process.poll() is None
        return FaultResult(
            fault=fault,
            reached=not self._why,
            why=self._why,
            acted_ns=self._acted_ns,
            migration=migration,
            error=error,
            refused=self._refused,
            state_before=state,
            state_after=self._guest.machine.status() if self._guest.machine.process.poll() is None else "gone",
            back_ms=back_ms,
            before=before,
            after=view_of_giver(source, kept=len(before.workers)) if alive else None,
            target_exit=target_exit,
            source_state=end.source_state,
            target_state=end.target_state,
            source_said=source.messages[said:].strip(),
            target_said=self._target.messages if self._target else "",
        )

    # -- the way to the phase ------------------------------------------------------------------------------------

    def _drive(self, stack: contextlib.ExitStack, elsewhere: ThreadPoolExecutor) -> None:
        """Go through the update's steps and put the fault in on the way."""
        phase = self._fault.phase
        target = self._start(stack)
        if phase is Phase.TARGET_STARTED:
            self._reach(phase)
        if target.process.poll() is None:
            self._wait_listening(target, self._channels.cpr)
        if phase is Phase.CPR_READY:
            self._reach(phase)
        self._set_capabilities(return_path=self._fault.return_path, pause=phase is Phase.BEFORE_SWITCHOVER)
        self._source.qmp.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
        if phase is Phase.MODE_SET:
            self._reach(phase)
        self._migrating = elsewhere.submit(self._migrate)
        if phase in DURING:
            self._reach(phase)
        if phase in (Phase.TARGET_RESUMED, Phase.SOURCE_QUITS):
            self._wait_resumed(target)
            if phase is Phase.SOURCE_QUITS:
                with contextlib.suppress(CprlibError):
                    self._source.qmp.execute("quit", seconds=2)
            self._reach(phase)

    def _set_capabilities(self, *, return_path: bool, pause: bool) -> None:
        wanted = {"events": True, "return-path": return_path, "pause-before-switchover": pause}
        capabilities = [{"capability": name, "state": state} for name, state in wanted.items()]
        self._source.qmp.execute("migrate-set-capabilities", {"capabilities": capabilities})

    def _start(self, stack: contextlib.ExitStack) -> Machine:
        guest, fault = self._guest, self._fault
        stack.enter_context(self._gates)
        settings = changed_settings(self._source.settings, fault.action)
        settings = replace(settings, extra=(*settings.extra, *self._gates.arguments))
        # the target is entered last, so that it ends before the gates that it may be waiting at
        switch = guest.topology.switch
        self._target = stack.enter_context(
            start_machine(f"target-{fault.name}", settings, guest.folder, switch, incoming=self._channels)
        )
        return self._target

    def _wait_listening(self, target: Machine, name: str) -> None:
        def listening() -> bool | None:
            return True if target.process.poll() is not None or is_listening(target.pid, name) else None

        Deadline(GATE_S, "the target's cpr channel", Awaited.QEMU).poll(listening, interval=0.005)

    def _migrate(self) -> str:
        """The words of the refusal; empty when the command was taken."""
        try:
            self._source.qmp.execute("migrate", {"channels": self._gates.told.descriptions()}, seconds=END_S)
        except (QmpRefused, QemuFailed) as error:
            return error.happened
        return ""

    def _wait_resumed(self, target: Machine) -> None:
        target.wait_ready()
        target.qmp.wait_event(["RESUME"], Deadline(END_S, "the target to resume", Awaited.QEMU))

    # -- at the phase --------------------------------------------------------------------------------------------

    def _reach(self, phase: Phase) -> None:
        """Wait until the update stands in the phase, put the fault in, and open the gate."""
        deadline = Deadline(GATE_S, f"phase {phase}")
        try:
            deadline.poll(self._arrived)
        except (InstrumentError, DeadlineExceeded) as error:
            self._why = error.one_line()
        self._acted_ns = time.time_ns()
        if not self._why:
            self._act()
        self._gates.release()
        if phase is Phase.BEFORE_SWITCHOVER:
            with contextlib.suppress(QmpRefused):  # it has ended by the fault
                self._source.qmp.execute("migrate-continue", {"state": "pre-switchover"})

    def _migration_status(self) -> str:
        answer: Mapping[str, Any] = self._source.qmp.execute("query-migrate")
        return str(answer.get("status", "none"))

    def _arrived(self) -> bool | None:
        """Whether the update stands in the fault's phase.

        :raises InstrumentError: it has ended before it came there.
        """
        fault, migrating = self._fault, self._migrating
        if migrating is not None and migrating.done() and (words := migrating.result()):
            raise InstrumentError(f"bring the update to phase {fault.phase}", f"it ended before: {words}")
        if not self._gates.hold(self._the_target().pid):
            return None
        if fault.phase is Phase.VM_STOPPED and not self._stopped():
            return None
        awaited = self._awaited_status()
        return True if awaited is None or self._migration_status() == awaited else None

    def _awaited_status(self) -> str | None:
        """What query-migrate has to say in the fault's phase (QAPI MigrationStatus), where that matters."""
        fault = self._fault
        if fault.phase is Phase.BEFORE_SWITCHOVER:
            return "pre-switchover"
        if fault.survivor is Survivor.ONE:
            return "device"  # the source has sent all, and waits for the target's word
        return "completed" if fault.phase is Phase.STATE_LOADING and fault.unnoticed else None

    def _stopped(self) -> bool:
        """Whether the source's VM has been stopped for this update, from its trace: its QMP may be blocked."""
        changes = self._source.trace.all_of("runstate_set")
        return any(item.time_ns >= self._begun_ns and "finish-migrate" in item.text for item in changes)

    def _act(self) -> None:
        fault, source, target = self._fault, self._source, self._the_target()
        victim = source if fault.actor is Actor.SOURCE else target
        match fault.action:
            case Action.KILL:
                kill_group(victim.process)
            case Action.PAUSE:
                self._pause(victim)
            case Action.CANCEL:
                try:
                    source.qmp.execute("migrate_cancel")
                except QmpRefused as error:
                    self._refused = error.happened
            case Action.MIGRATE_AGAIN:
                self._why = "" if self._migrate() else "a second migrate was taken while one ran"
            case Action.FULL_TABLE:
                if victim is target:  # has to accept the channel: it would try that again and again, the source wait
                    exhaust_descriptors(target.pid, left=1)
                else:  # its main channel has to do with the number of the cpr channel
                    exhaust_descriptors(source.pid, earlier=self._before.table)
            case _:
                self._gates.spoil()

    def _pause(self, victim: Machine) -> None:
        """Stop a process, let the other side go as far as it comes, and continue it."""
        os.kill(victim.pid, signal.SIGSTOP)
        self._gates.release()
        other = self._source if victim is self._target else None
        for _ in range(3):  # each is a round trip through the other's main loop: it is not blocked
            if other is not None:
                other.status()
        os.kill(victim.pid, signal.SIGCONT)

    # -- afterwards ------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """Continue what was stopped, and let the source open files again."""
        for machine in (self._source, self._target):
            if machine is not None and machine.process.poll() is None:
                os.kill(machine.pid, signal.SIGCONT)
                _, hard = resource.prlimit(machine.pid, resource.RLIMIT_NOFILE)
                resource.prlimit(machine.pid, resource.RLIMIT_NOFILE, (self._limit, hard))
        if self._fault.phase is Phase.BEFORE_SWITCHOVER and self._source.process.poll() is None:
            with contextlib.suppress(CprlibError):  # a plain update is to follow
                self._set_capabilities(return_path=self._fault.return_path, pause=False)

    def _the_target(self) -> Machine:
        if self._target is None:
            raise InstrumentError("use the target", "it was not started")
        return self._target
