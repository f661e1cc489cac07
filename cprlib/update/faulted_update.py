"""An update into which a fault is put: brought to the fault's phase by gates, then spoilt, then watched to its end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import CprlibError, DeadlineExceeded, InstrumentError, QemuFailed, QmpRefused
from cprlib.process import kill_group, wait_until_exit
from cprlib.qemu.channels import MigrationChannels, is_listening
from cprlib.qemu.machine import Machine, MachineSettings, start_machine
from cprlib.update.faults import Action, Actor, Fault, Phase, Survivor
from cprlib.update.gate import ChannelGate, PipeGate
from cprlib.update.live_update import ProcessView, view
from cprlib.update.running_guest import RunningGuest

ENDED = ("failed", "cancelled", "completed")  # QAPI MigrationStatus
GATE_S, END_S, BACK_S = 30.0, 30.0, 10.0
LOADING_OCTETS = 4096  # of the device state that the target has in phase "state loading"
GARBAGE = bytes(range(255, -1, -1)) * 16  # no magic number of QEMU's, nor a length that makes sense

_PIPES = {
    Phase.TARGET_STARTED: ("-readconfig", "{path}"),  # before it listens on its cpr channel
    Phase.FDS_RECEIVED: ("-object", "secret,id=gate,file={path}"),  # qemu_create_early_backends()
    Phase.CREATING_DEVICES: ("-fw_cfg", "name=opt/org.cprlib/gate,file={path}"),  # after the netdevs
}
_CPR_GATE = (Phase.VM_STOPPED, Phase.FDS_SENT)
_MAIN_GATE = (Phase.MAIN_CONNECTED, Phase.STATE_LOADING)


@dataclass(frozen=True, slots=True)
class FaultResult:
    """What was seen of one fault.

    :param reached: False when the update ended before it came to the phase; :attr:`why` says how.
    :param acted_ns: when the fault was put in (CLOCK_REALTIME).
    :param migration: what query-migrate said at the end; ``gone`` when the source was.
    :param error: QEMU's own words for the failure.
    :param back_ms: from the fault to the source's RESUME; None when it did not resume, or had not been running.
    :param target_exit: how the target ended by itself; None when it had to be killed, or lives.
    :param target_state: its run state at the end of the update; ``gone``, or ``none`` while it serves no QMP.
    """

    fault: Fault
    reached: bool
    why: str
    acted_ns: int
    migration: str
    error: str
    state_before: str
    state_after: str
    back_ms: float | None
    before: ProcessView
    after: ProcessView | None
    target_exit: int | None
    target_state: str
    source_said: str
    target_said: str


def changed_settings(settings: MachineSettings, action: Action) -> MachineSettings:
    """The target's settings for actions that are a target which does not fit; the same ones for all others."""
    netdev, nic = settings.netdevs[0], settings.nics[0]
    match action:
        case Action.OTHER_QUEUES:
            other = netdev.queues // 2 or 1 if netdev.queues > 1 else 2
            return replace(settings, netdevs=(replace(netdev, queues=other),), nics=(replace(nic, queues=other),))
        case Action.OTHER_NETDEV:
            name = f"{netdev.identifier}x"
            return replace(settings, netdevs=(replace(netdev, identifier=name),), nics=(replace(nic, netdev=name),))
        case Action.NO_NETDEV:
            return replace(settings, netdevs=(), nics=())
        case Action.OTHER_MEMORY:
            return replace(settings, memory_mib=settings.memory_mib * 2)
        case Action.OTHER_MACHINE:
            return replace(settings, machine="pc" if settings.machine == "q35" else "q35")
    return settings


class FaultedUpdate:
    """One update of a guest with one fault in it; :meth:`perform` does it all.

    Where the target survives the guest is handed over to it, as after any update.
    """

    def __init__(self, guest: RunningGuest, fault: Fault) -> None:
        self._guest = guest
        self._fault = fault
        self._source = guest.machine
        self._target: Machine | None = None
        self._cpr: ChannelGate | None = None
        self._main: ChannelGate | None = None
        self._pipe: PipeGate | None = None
        self._begun_ns = time.time_ns()
        self._acted_ns = 0
        self._told = MigrationChannels("", "")
        self._why = ""
        self._target_state = "gone"

    def perform(self) -> FaultResult:
        """Carry the update and the fault out.

        :raises DeadlineExceeded: the update did not come to an end.
        :raises CprlibError: the harness could not do its part.
        """
        source, fault = self._source, self._fault
        state, before, said = source.status(), view(source), len(source.messages)
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as elsewhere:
            try:
                migrating = self._drive(stack, elsewhere)
                migration, error = self._wait_end(migrating)
                back_ms, target_exit = self._wait_survivor(stack, state)
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
            state_before=state,
            state_after=self._guest.machine.status() if self._guest.machine.process.poll() is None else "gone",
            back_ms=back_ms,
            before=before,
            after=view(source) if alive else None,
            target_exit=target_exit,
            target_state=self._target_state,
            source_said=source.messages[said:].strip(),
            target_said=self._target.messages if self._target else "",
        )

    # -- the way to the phase ------------------------------------------------------------------------------------

    def _drive(self, stack: contextlib.ExitStack, elsewhere: ThreadPoolExecutor) -> Future[str] | None:
        """Go through the update's steps and put the fault in on the way; gives back the pending ``migrate``."""
        phase = self._fault.phase
        channels = self._start(stack)
        if phase is Phase.TARGET_STARTED:
            self._reach(phase)
        target = self._the_target()
        if target.process.poll() is None:
            self._wait_listening(target, channels.cpr)
        if phase is Phase.CPR_READY:
            self._reach(phase)
        wanted = {"events": True, "return-path": self._fault.return_path}
        capabilities = [{"capability": name, "state": state} for name, state in wanted.items()]
        self._source.qmp.execute("migrate-set-capabilities", {"capabilities": capabilities})
        self._source.qmp.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
        if phase is Phase.MODE_SET:
            self._reach(phase)
        told = MigrationChannels(
            cpr=self._cpr.name if self._cpr else channels.cpr, main=self._main.name if self._main else channels.main
        )
        if self._fault.action is Action.NOBODY_LISTENS:
            told = replace(told, cpr=f"{told.cpr}-nobody")
        self._told = told
        migrating = elsewhere.submit(self._migrate, told)
        if phase in (*_CPR_GATE, Phase.FDS_RECEIVED, Phase.CREATING_DEVICES, *_MAIN_GATE):
            self._reach(phase)
        if phase in (Phase.TARGET_RESUMED, Phase.SOURCE_QUITS):
            self._wait_resumed(target)
            if phase is Phase.SOURCE_QUITS:
                with contextlib.suppress(CprlibError):
                    self._source.qmp.execute("quit", seconds=2)
            self._reach(phase)
        return migrating

    def _start(self, stack: contextlib.ExitStack) -> MigrationChannels:
        guest, fault = self._guest, self._fault
        channels = MigrationChannels.fresh()
        switch = guest.topology.switch
        if fault.phase in _CPR_GATE:
            refuse = fault.phase is Phase.VM_STOPPED
            self._cpr = stack.enter_context(ChannelGate(switch, channels.cpr, None, refuse=refuse))
        if fault.phase in _MAIN_GATE:
            loading = fault.phase is Phase.STATE_LOADING
            octets = LOADING_OCTETS if loading else 0
            self._main = stack.enter_context(ChannelGate(switch, channels.main, octets, pass_on=loading))
        settings = changed_settings(self._source.settings, fault.action)
        if fault.phase in _PIPES and settings == self._source.settings:
            self._pipe = stack.enter_context(PipeGate())
            gated = (argument.format(path=self._pipe.path) for argument in _PIPES[fault.phase])
            settings = replace(settings, extra=(*settings.extra, *gated))
        # the target is entered last, so that it ends before the gates that it may be waiting at
        self._target = stack.enter_context(
            start_machine(f"target-{fault.name}", settings, guest.folder, switch, incoming=channels)
        )
        return channels

    def _wait_listening(self, target: Machine, name: str) -> None:
        def listening() -> bool | None:
            return True if target.process.poll() is not None or is_listening(target.pid, name) else None

        Deadline(GATE_S, "the target's cpr channel").poll(listening, interval=0.005)

    def _migrate(self, channels: MigrationChannels) -> str:
        """The words of the refusal; empty when the command was taken."""
        try:
            self._source.qmp.execute("migrate", {"channels": channels.descriptions()}, seconds=END_S)
        except (QmpRefused, QemuFailed) as error:
            return error.happened
        return ""

    def _wait_resumed(self, target: Machine) -> None:
        target.wait_ready()
        target.qmp.wait_event(["RESUME"], Deadline(END_S, "the target to resume"))

    # -- at the phase --------------------------------------------------------------------------------------------

    def _reach(self, phase: Phase) -> None:
        """Wait until the update stands in the phase, put the fault in, and open the gate."""
        deadline = Deadline(GATE_S, f"phase {phase}")
        try:
            if self._pipe:
                self._pipe.wait_held(self._the_target().pid, deadline)
            elif phase is Phase.VM_STOPPED:
                deadline.poll(self._stopped)
            elif phase is Phase.FDS_SENT and self._cpr:
                self._cpr.wait_held(deadline)
            elif phase in _MAIN_GATE and self._main:
                self._main.wait_held(deadline)
                if self._fault.unnoticed:
                    deadline.poll(lambda: True if self._migration_status() == "completed" else None)
        except (InstrumentError, DeadlineExceeded) as error:
            self._why = error.one_line()
        self._acted_ns = time.time_ns()
        if not self._why:
            self._act()
        self._release()

    def _migration_status(self) -> str:
        answer: Mapping[str, Any] = self._source.qmp.execute("query-migrate")
        return str(answer.get("status", "none"))

    def _stopped(self) -> bool | None:
        """Whether the source's VM has been stopped for this update, from its trace: its QMP may be blocked."""
        changes = self._source.trace.all_of("runstate_set")
        return (
            True if any(item.time_ns >= self._begun_ns and "finish-migrate" in item.text for item in changes) else None
        )

    def _release(self) -> None:
        for gate in (self._cpr, self._main, self._pipe):
            if gate is not None:
                gate.release()

    def _act(self) -> None:
        fault, source, target = self._fault, self._source, self._the_target()
        victim = source if fault.actor is Actor.SOURCE else target
        match fault.action:
            case Action.KILL:
                kill_group(victim.process)
            case Action.PAUSE:
                self._pause(victim)
            case Action.CANCEL:
                source.qmp.execute("migrate_cancel")
            case Action.MIGRATE_AGAIN:
                self._why = "" if self._migrate(self._told) else "a second migrate was taken while one ran"
            case Action.FULL_TABLE:
                used = len(os.listdir(f"/proc/{target.pid}/fd"))
                resource.prlimit(target.pid, resource.RLIMIT_NOFILE, (used + 3, used + 3))
        for gate, cut, garbage in (
            (self._cpr, Action.CLOSE_CPR, Action.GARBAGE_CPR),
            (self._main, Action.CLOSE_MAIN, Action.GARBAGE_MAIN),
        ):
            if gate is not None:
                self._spoil(gate, fault.action, cut, garbage)

    @staticmethod
    def _spoil(gate: ChannelGate, action: Action, cut: Action, garbage: Action) -> None:
        if action is cut:
            gate.cut()
        elif action is garbage:
            gate.replace(GARBAGE)
        elif action is Action.TRUNCATE_CPR:
            gate.truncate(gate.octets // 2)
        elif action is Action.WITHOUT_FDS:
            gate.truncate(gate.octets, descriptors=False)
        elif action is Action.TRUNCATE_MAIN:
            gate.truncate(0)

    def _pause(self, victim: Machine) -> None:
        """Stop a process, let the other side go as far as it comes, and continue it."""
        os.kill(victim.pid, signal.SIGSTOP)
        self._release()
        other = self._source if victim is self._target else None
        for _ in range(3):  # each is a round trip through the other's main loop: it is not blocked
            if other is not None:
                other.status()
        os.kill(victim.pid, signal.SIGCONT)

    # -- the end -------------------------------------------------------------------------------------------------

    def _wait_end(self, migrating: Future[str] | None) -> tuple[str, str]:
        """Wait until the source says that the migration is over, or is gone."""
        refused = migrating.result() if migrating else ""

        def ended() -> tuple[str, str] | None:
            if self._source.process.poll() is not None:
                return "gone", refused
            try:
                answer: Mapping[str, Any] = self._source.qmp.execute("query-migrate")
            except QemuFailed:
                return None
            status, reason = str(answer.get("status", "none")), str(answer.get("error-desc", "") or refused)
            return (status, reason) if status in ENDED or (refused and status == "none") else None

        return Deadline(END_S, f"the end of an update with {self._fault.name}").poll(ended, 0.02)

    def _wait_survivor(self, stack: contextlib.ExitStack, state: str) -> tuple[float | None, int | None]:
        """Wait until the one that has to survive has the guest; tells how long it took and how the target ended."""
        fault = self._fault
        if fault.survivor is not Survivor.SOURCE:
            return None, self._end_target(stack)
        if not fault.unnoticed:
            return self._wait_back(state), self._end_target(stack)
        ended = self._end_target(stack)
        if state == "running":
            self._source.qmp.execute("cont")
        return self._wait_back(state), ended

    def _wait_back(self, state: str) -> float | None:
        """Wait until the source has the run state that it had.

        :returns: ms from the fault to its RESUME event; None when there was none to be expected, or it did not come.
        """
        with contextlib.suppress(DeadlineExceeded):
            Deadline(BACK_S, f"the source to be {state} again").poll(
                lambda: True if self._source.status() == state else None, 0.02
            )
        events = [item for item in self._source.qmp.events if item.name == "RESUME"]
        after = [item.time_ns for item in events if item.time_ns >= self._acted_ns]
        return (after[0] - self._acted_ns) / 1e6 if after else None

    def _end_target(self, stack: contextlib.ExitStack) -> int | None:
        """Let the target live on where it shall, else see how it ends, and end it."""
        target, fault = self._the_target(), self._fault
        if fault.survivor is Survivor.TARGET:
            self._adopt(target, stack)
            return None
        if fault.survivor is Survivor.NOBODY and target.process.poll() is None:
            self._target_state = _state(target)
        if fault.refusal:
            with contextlib.suppress(DeadlineExceeded):
                return wait_until_exit(target.process, Deadline(BACK_S, "the target to end by itself"))
        ended = target.process.poll()
        kill_group(target.process)
        return ended

    def _adopt(self, target: Machine, stack: contextlib.ExitStack) -> None:
        """The guest runs in the target now."""
        target.wait_ready()
        wanted = ("running", "paused")
        Deadline(END_S, "the target to have the guest").poll(lambda: True if target.status() in wanted else None)
        target.incoming = False
        with contextlib.suppress(CprlibError):
            if self._source.process.poll() is None:
                self._source.quit()
        self._guest.stack.push(stack.pop_all())
        self._guest.machine = target
        self._guest.agent.use(target.agent)

    def _let_go(self) -> None:
        """Continue what was stopped; a stopped process could not be ended in good order."""
        for machine in (self._source, self._target):
            if machine is not None and machine.process.poll() is None:
                os.kill(machine.pid, signal.SIGCONT)

    def _the_target(self) -> Machine:
        if self._target is None:
            raise InstrumentError("use the target", "it was not started")
        return self._target


def _state(machine: Machine) -> str:
    """The run state; ``none`` when no QMP is served."""
    try:
        machine.wait_ready(1)
        return machine.status()
    except CprlibError:
        return "none"
