"""Carry out a fault: a hook that holds the update in the fault's phase, acts, and continues the update."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cprlib.deadline import Deadline, wait_while_rising
from cprlib.errors import Awaited, CprlibError, DeadlineExceeded, InstrumentError, QmpRefused
from cprlib.linux.descriptors import exhaust_descriptors
from cprlib.linux.procfs import task_use
from cprlib.process import kill_group
from cprlib.qemu.command_line import MachineSettings, global_properties
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import NIC_DRIVER
from cprlib.qemu.nic_state import differences
from cprlib.qemu.qmp import Arguments
from cprlib.update.barrier import StartupBarrier
from cprlib.update.faults import (
    FEWER_FEATURES,
    ROM_BYTES,
    ROM_DEVICE,
    TARGET_SETTINGS,
    Action,
    Actor,
    Fault,
    Phase,
    Survivor,
)
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.outcome import (
    END_S,
    FINISHING,
    FaultOutcome,
    migration_settings,
    query_migration,
    view_after_release,
)
from cprlib.update.proxy import ChannelProxy, Hold
from cprlib.update.results import FaultResult
from cprlib.update.running_guest import RunningGuest

PHASE_S, TERMINATED_S = 30.0, 10.0  # for a phase to begin; for a QEMU to end after SIGTERM
AT_REST_S, PAUSE_S, REST_POLL_S = 0.1, 2.0, 0.02  # a QEMU uses no processor time; the longest pause of the other one
LOADING_BYTES = 4096  # of the device state, which the target has at the least in phase STATE_LOADING
UNKNOWN_MACHINE = "pc-q35-cprlib-0.0"  # stands for pc-q35-rhel9.6.0 and the like, which some QEMUs do have
NO_MODERN = re.compile(rf"{NIC_DRIVER}\.disable-modern=(on|yes|true|y)")
GARBAGE = bytes(range(255, -1, -1)) * 16  # neither a magic number of QEMU nor a plausible length

BARRIERS = {
    Phase.TARGET_STARTED: ("-readconfig", "{path}"),  # before it listens on its CPR channel
    Phase.FDS_RECEIVED: ("-object", "secret,id=barrier,file={path}"),  # qemu_create_early_backends()
    Phase.CREATING_DEVICES: ("-fw_cfg", "name=opt/org.cprlib/barrier,file={path}"),  # after the netdevs
}
COMMANDS: Mapping[Action, tuple[str, Arguments | None]] = {
    Action.CANCEL: ("migrate_cancel", None),
    Action.YANK: ("yank", {"instances": [{"type": "migration"}]}),
    Action.CONTINUE: ("cont", None),
    Action.PLUG: ("device_add", {"driver": "virtserialport", "id": "late"}),
}
CPR_PHASES = (Phase.VM_STOPPED, Phase.FDS_SENT)
MAIN_PHASES = (Phase.MAIN_CONNECTED, Phase.STATE_LOADING)
BEFORE_MIGRATE = (Phase.TARGET_STARTED, Phase.CPR_READY, Phase.MODE_SET)


def inject_fault(guest: RunningGuest, fault: Fault, hooks: Sequence[UpdateHook] = ()) -> FaultResult:
    """Update a guest with one fault. Where the target survives, the guest runs in it afterwards.

    So it does when the update completes although it was not seen in the fault's phase.

    :param hooks: further ones, called after the fault's.

    :raises DeadlineExceeded: the update did not end.
    :raises UpdateFailed: it failed although the target had to get the guest.
    :raises CprlibError: the harness could not do its part.
    """
    source = guest.machine
    state, said = source.status(), source.mark_messages()
    injection = FaultInjection(fault)
    changed: tuple[str, ...] = ()
    with contextlib.ExitStack() as stack:
        update = guest.plan_update([injection, *hooks], stack=stack, target_name=f"target-{fault.name}")
        before = update.source_before
        try:
            refusal = update.begin()
            reached = not injection.not_reached
            outcome = FaultOutcome(fault, source, update.target, state, injection.acted_ns, reached)
            migration = outcome.wait_migration(refusal.happened if refusal else "", update.started_ns)
            back_ms, target_exit = outcome.wait_survivor(migration.status)
            announced = outcome.wait_announced(migration.status, update.started_ns)
            if outcome.target_has_guest:
                guest.move_to(update.target, stack.pop_all())
            elif fault.survivor is Survivor.SOURCE:
                changed = differences(injection.settings, migration_settings(source))
        finally:
            injection.restore(update)
    machine = guest.machine
    return FaultResult(
        fault=fault,
        not_reached=injection.not_reached,
        acted_ns=injection.acted_ns,
        migration=migration.status,
        error=migration.error,
        refused=injection.refused,
        announced=announced,
        target_ran=outcome.target_ran,
        run_events=tuple(
            event.name
            for event in source.qmp.events
            if event.name in ("STOP", "RESUME") and event.received_ns >= update.started_ns
        ),
        settings_changed=changed,
        state_before=state,
        state_after=machine.status() if machine.process.poll() is None else "gone",
        back_ms=back_ms,
        before=before,
        after=view_after_release(source, kept=len(before.workers)) if source.process.poll() is None else None,
        target_exit=target_exit,
        source_state=outcome.source_state,
        target_state=outcome.target_state,
        source_messages=source.messages_since(said),
        target_messages=update.target.messages,
    )


def changed_settings(settings: MachineSettings, action: Action) -> MachineSettings:
    """The settings of a target with one of :data:`TARGET_SETTINGS`; the same ones for other actions."""
    netdev, nic = settings.netdevs[0], settings.nics[0]
    changes: dict[str, Any] = {}
    extra: tuple[str, ...] = ()
    match action:
        case Action.OTHER_QUEUES:
            other = netdev.queues // 2 or 1 if netdev.queues > 1 else 2
            changes = {"netdevs": (replace(netdev, queues=other),), "nics": (replace(nic, queues=other),)}
        case Action.OTHER_VHOST:
            changes = {"netdevs": (replace(netdev, vhost=not netdev.vhost),)}
        case Action.OTHER_NETDEV:
            name = f"{netdev.identifier}x"
            changes = {"netdevs": (replace(netdev, identifier=name),), "nics": (replace(nic, netdev=name),)}
        case Action.NO_NETDEV:
            changes = {"netdevs": (), "nics": ()}
        case Action.OTHER_MEMORY:
            changes = {"memory_mib": settings.memory_mib * 2}
        case Action.OTHER_MACHINE:
            changes = {"machine": "pc" if "q35" in settings.machine else "q35"}
        case Action.OTHER_VERSION:
            changes = {"machine": UNKNOWN_MACHINE}
        case Action.OTHER_FEATURES:
            extra = global_properties(NIC_DRIVER, dict.fromkeys(FEWER_FEATURES, "off"))
        case Action.OTHER_NIC:
            has_none = any(NO_MODERN.fullmatch(word) for word in settings.extra)  # by the run's own options
            extra = global_properties(NIC_DRIVER, {"disable-modern": "off" if has_none else "on"})
        case Action.OTHER_ROM:
            extra = global_properties(ROM_DEVICE, {"romsize": str(2 * ROM_BYTES)})
        case Action.NO_SPACE:
            extra = ("-D", "/dev/full")  # the last -D counts
        case Action.NO_NET_ADMIN:
            changes = {"prefix": ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")}
    return replace(settings, extra=(*settings.extra, *extra), **changes)


class FaultInjection(UpdateHook):
    """The hook of one fault.

    ``acted_ns`` is the time of the fault (CLOCK_REALTIME), ``not_reached`` how the update ended before the phase,
    ``refused`` QEMU's message when it refused management's command, ``settings`` those of the source's migration as
    management has set them.
    """

    expects_failure = True

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.acted_ns = 0
        self.not_reached = ""
        self.refused = ""
        self.settings: Mapping[str, str] = {}
        self._proxy: ChannelProxy | None = None
        self._barrier: StartupBarrier | None = None
        self._limit: int | None = None

    def before_target(self, update: LiveUpdate) -> None:
        """Add what holds the update in the fault's phase, and change the target's settings."""
        fault, channels = self.fault, update.channels
        self._limit = resource.prlimit(update.source.pid, resource.RLIMIT_NOFILE)[0]
        settings = changed_settings(update.target_settings, fault.action)
        if fault.phase in CPR_PHASES:
            hold = Hold.BEFORE_ACCEPT if fault.phase is Phase.VM_STOPPED else Hold.AT_END
            self._proxy = update.hold_channel("cpr", hold)
        elif fault.phase in MAIN_PHASES:
            loading = fault.phase is Phase.STATE_LOADING
            self._proxy = update.hold_channel(
                "main",
                LOADING_BYTES if loading else Hold.WHEN_CONNECTED,
                forward_held=loading,
                # without a return path the source hangs up while the proxy holds what it has sent
                outlive_source=fault.survivor in (Survivor.TARGET, Survivor.EITHER),
                unlimited=fault.unnoticed,  # the source has to complete
            )
        elif fault.phase in BARRIERS and fault.action not in TARGET_SETTINGS:
            self._barrier = update.stack.enter_context(StartupBarrier())
            arguments = (argument.format(path=self._barrier.path) for argument in BARRIERS[fault.phase])
            settings = replace(settings, extra=(*settings.extra, *arguments))
        if fault.action is Action.NO_LISTENER:
            update.source_channels = replace(channels, cpr=f"{channels.cpr}-none")
        if fault.action is Action.NO_CPR_CHANNEL:
            update.source_channels = replace(channels, cpr="")
        update.target_settings = settings
        update.capabilities |= self._capabilities

    @property
    def _capabilities(self) -> dict[str, bool]:
        pauses = self.fault.phase is Phase.BEFORE_SWITCHOVER
        return {"return-path": self.fault.return_path, "pause-before-switchover": pauses}

    def at_phase(self, phase: Phase, update: LiveUpdate) -> None:
        if phase is Phase.MODE_SET:
            self.settings = migration_settings(update.source)
        if phase is self.fault.phase:
            self._inject(update)

    def after_migrate(self, update: LiveUpdate) -> None:
        phase = self.fault.phase
        if phase in BEFORE_MIGRATE:
            return
        if phase in (Phase.TARGET_RESUMED, Phase.SOURCE_QUITS):
            update.target.wait_ready()
            update.target.qmp.wait_event("RESUME", deadline=Deadline(END_S, "the target to resume", Awaited.QEMU))
        if phase is Phase.SOURCE_QUITS:
            update.source.quitting = True
            with contextlib.suppress(CprlibError):
                update.source.qmp.execute("quit", seconds=2)
        self._inject(update)

    def restore(self, update: LiveUpdate) -> None:
        """Continue stopped QEMUs, restore the descriptor limit, and switch the capabilities of the fault off."""
        source = update.source
        for machine in (source, update.started_target):
            if machine is not None and machine.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):  # it ends now
                    os.kill(machine.pid, signal.SIGCONT)
                    if self._limit is not None:
                        _, hard = resource.prlimit(machine.pid, resource.RLIMIT_NOFILE)
                        resource.prlimit(machine.pid, resource.RLIMIT_NOFILE, (self._limit, hard))
        used = [name for name in self._capabilities if self._capabilities[name]]
        if used and source.process.poll() is None:
            with contextlib.suppress(CprlibError):  # an ordinary update follows
                source.set_capabilities(dict.fromkeys(used, False))

    def _inject(self, update: LiveUpdate) -> None:
        """Wait until the update stands in the phase, act, and continue it."""
        try:
            Deadline(PHASE_S, f"phase {self.fault.phase}").poll(lambda: self._arrived(update))
        except (InstrumentError, DeadlineExceeded) as error:
            self.not_reached = error.one_line()
        self.acted_ns = time.time_ns()
        if not self.not_reached:
            self._act(update)
        self._release()
        if self.fault.phase is Phase.BEFORE_SWITCHOVER:
            with contextlib.suppress(QmpRefused):  # the fault has ended the migration
                update.source.qmp.execute("migrate-continue", {"state": "pre-switchover"})

    def _release(self) -> None:
        for holder in (self._proxy, self._barrier):
            if holder is not None:
                holder.release()

    def _arrived(self, update: LiveUpdate) -> bool:
        """Whether the update stands in the fault's phase.

        :raises InstrumentError: it has ended before.
        """
        phase, reply = self.fault.phase, update.migrate_reply
        if reply is not None and reply.done() and (refusal := reply.result()):
            raise InstrumentError(f"bring the update to phase {phase}", f"it ended before: {refusal.happened}")
        if self._barrier:
            if not self._barrier.holds(update.target.pid):
                return False
        elif phase is Phase.VM_STOPPED:
            if not _has_stopped(update.source, update.started_ns):
                return False
        elif self._proxy and not self._proxy.held:
            return False
        awaited = self._awaited_status()
        if awaited is None:
            return True
        migration = query_migration(update.source)
        # until ``migrate`` returns, it is the status of the migration before
        if reply is not None and reply.done() and migration.status == "failed":
            raise InstrumentError(
                f"bring the update to phase {phase}", f"the migration failed before: {migration.error}"
            )
        return migration.status == awaited

    def _awaited_status(self) -> str | None:
        """QAPI MigrationStatus of the source in the fault's phase, where it matters."""
        fault = self.fault
        if fault.phase is Phase.BEFORE_SWITCHOVER:
            return "pre-switchover"
        if fault.survivor is Survivor.EITHER:
            return "device"  # the source has sent everything and waits for the target's answer
        return "completed" if fault.phase is Phase.STATE_LOADING and fault.unnoticed else None

    def _act(self, update: LiveUpdate) -> None:
        fault, source, target = self.fault, update.source, update.target
        victim = source if fault.actor is Actor.SOURCE else target
        match fault.action:
            case Action.KILL:
                kill_group(victim.process)
            case Action.TERMINATE:  # it ends by itself, also while it waits for a channel
                os.killpg(victim.process.pid, signal.SIGTERM)
                victim.process.killed_here = True
                victim.wait_exit(Deadline(TERMINATED_S, f"the {victim.name} to end after SIGTERM", Awaited.QEMU))
            case Action.PAUSE:
                self._pause(victim, other=source if victim is target else target)
            case action if action in COMMANDS:
                self._command(source, *COMMANDS[action])
            case Action.UNPLUG:
                self._command(source, "device_del", {"id": source.settings.nics[0].identifier})
            case Action.RESET:
                source.reset()
            case Action.STOP_TARGET:
                target.wait_ready()
                self._command(target, "stop")
            case Action.HMP_CANCEL:
                answer = source.qmp.execute("human-monitor-command", {"command-line": "migrate_cancel"})
                self.refused = str(answer).strip()
            case Action.MIGRATE_AGAIN:
                refusal = update.migrate()
                self.refused = refusal.happened if isinstance(refusal, QmpRefused) else ""
            case Action.EXHAUST_DESCRIPTORS if victim is target:
                exhaust_descriptors(target.pid, left=1)  # it must accept the channel, or it would retry for ever
            case Action.EXHAUST_DESCRIPTORS:  # one for the main channel: the CPR channel is still open then
                exhaust_descriptors(source.pid, left=1, earlier=update.source_before.table)
            case _ if self._proxy is not None:
                _change_stream(self._proxy, fault.action)

    def _command(self, machine: Machine, command: str, arguments: Arguments | None = None) -> None:
        try:
            machine.qmp.execute(command, arguments)
        except QmpRefused as error:
            self.refused = error.happened

    def _pause(self, victim: Machine, other: Machine) -> None:
        """Stop a process, let the other QEMU run as far as it can, and continue the process."""

        def used_ns() -> tuple[int, int]:
            return sum(used.run_ns for used in task_use(other.pid).values()), sys.maxsize

        os.kill(victim.pid, signal.SIGSTOP)
        try:
            self._release()
            # no event says that a process waits for the other one
            wait_while_rising(used_ns, quiet_s=AT_REST_S, latest_s=PAUSE_S, interval=REST_POLL_S)
        finally:
            os.kill(victim.pid, signal.SIGCONT)


def _has_stopped(source: Machine, since_ns: int) -> bool:
    """Whether the guest has stopped in the source: by its trace, as its QMP may be blocked, or by its event STOP.

    :param since_ns: start of the update.
    """
    times = [time_ns for time_ns, state in source.trace.run_states() if state == FINISHING]
    times += [event.received_ns for event in source.qmp.events if event.name == "STOP"]
    return any(time_ns >= since_ns for time_ns in times)


def _change_stream(proxy: ChannelProxy, action: Action) -> None:
    match action:
        case Action.CLOSE_CPR | Action.CLOSE_MAIN:
            proxy.cut()
        case Action.GARBAGE_CPR | Action.GARBAGE_MAIN:
            proxy.replace(GARBAGE)
        case Action.TRUNCATE_CPR:
            proxy.truncate(proxy.byte_count // 2)
        case Action.TRUNCATE_MAIN:
            proxy.truncate(0)
        case Action.WITHOUT_FDS:
            proxy.truncate(proxy.byte_count, descriptors=False)
